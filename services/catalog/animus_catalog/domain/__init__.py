"""Plain data and rules: no connection, no proto, no clock of its own."""
