"""What the catalog does on events of others."""
