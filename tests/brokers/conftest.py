import pytest

pytest.register_assert_rewrite("brokers.conformance", "brokers.model")
