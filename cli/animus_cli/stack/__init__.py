"""The local stack: the very same processes as in production, on loopback, in one folder, with keys it makes itself.

layout.py     where everything lies in the folder
options.py    what somebody chose for it
keys.py       root, CAs, certificates, signing keys, trust bundle, the token issuer's key
issuer.py     bearer tokens of the stack's own issuer
database.py   embedded PostgreSQL: cluster, roles, migrations
processes.py  starting, finding, probing and ending one process
programs.py   which processes there are, with their settings
stack.py      up, down, status, restart
"""
