"""Soak: many clients publish and receive through faults while a ledger is kept; at the end it is judged.

``hubbub soak`` runs it on the command line; :func:`hubbub.soak.run.run` from a program.
"""
