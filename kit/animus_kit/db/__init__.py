"""PostgreSQL: one database, a schema and two roles for each service.

engine      connections and transactions
migrate     Alembic, as the owner role
provision   schemas and roles of a database; embedded runs a PostgreSQL of our own
outbox      events inside business transactions
sequencer   numbers them and brings them to the log
tail        reads the log into a projection
"""
