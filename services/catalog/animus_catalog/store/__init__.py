"""SQL: each function takes a connection and returns domain objects. Transactions are the caller's."""
