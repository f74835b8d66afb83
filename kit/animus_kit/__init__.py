"""What every process of Animus shares.

The modules here need no more than `animus-api`, grpcio, protobuf, cryptography and rfc8785, so that the agent can use
them on a node. `animus_kit.server`, `animus_kit.db` and `animus_kit.testing` need the extras of the same names and are
never imported from here.

    clock ids names digest     time, randomness and names come through the door
    errors status retry        what may go wrong, how it travels, when to try again
    settings log trace         how a process is told what to do, and how it tells what it did
    tls pki channel            who speaks with whom
    documents/                 what is signed and verified
    server/                    a gRPC process: table of permissions, interceptors, listeners
    db/                        PostgreSQL: migrations, the outbox, its sequencer, tails of the log
    testing/                   pytest fixtures over the real things
"""
