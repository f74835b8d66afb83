"""The one way out of a container: a proxy of the agent on the container's own loopback.

The container's network namespace holds nothing but `lo`, in every mode. With an allow-list the agent opens a listening
socket *inside* that namespace (namespace.py) and answers HTTP CONNECT and absolute-form requests on it (proxy.py); it
resolves names itself, holds each destination against contract and node (rules.py), and records each decision
(record.py). gateway.py gives one attempt all of it, for as long as its container runs.
"""
