"""One attempt, from contract to result: a visible, ordered, idempotent list of steps (steps.py).

No ties to the agent's loop: it needs the contract, the grant, a signing handle and the ports in ports.py, so that it can
as well be the supervisor in a pod.
"""
