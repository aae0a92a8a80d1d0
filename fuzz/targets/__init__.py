"""What is fuzzed: each module has a `check(data)` that raises for a finding, and only then."""
