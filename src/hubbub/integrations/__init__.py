"""Hosts: frameworks that people have already, and what it takes to be at home in each."""
