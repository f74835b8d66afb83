"""Proto to domain and back, one file per proto service. Nothing else happens here."""
