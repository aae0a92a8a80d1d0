import pytest

pytest.register_assert_rewrite("hubbub.testing.brokers")
