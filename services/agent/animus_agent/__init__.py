"""The agent: runs attempts on one node. It owns nothing but its spool and its caches."""
