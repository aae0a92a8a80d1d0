import pytest

from hubbub import Settings
from hubbub.brokers import open_broker
from hubbub.brokers.memory import MemoryBroker
from hubbub.errors import ConfigurationError


def test_rooms_live_in_memory_unless_told():
    assert isinstance(open_broker(Settings()), MemoryBroker)


def test_a_lease_is_over_early_enough_for_others_to_see_it_in_the_time_that_was_set():
    broker = open_broker(Settings(lease=3.0))
    assert isinstance(broker, MemoryBroker)
    assert broker.store.lease == 2.0


def test_each_broker_opened_in_memory_is_on_its_own():
    one, other = open_broker(Settings()), open_broker(Settings())
    assert one.store is not other.store
    assert one.instance != other.instance


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("carrier-pigeon://loft", "There is no broker for carrier-pigeon://"),
        ("memory", "There is no broker for no scheme://"),
        ("", "There is no broker for no scheme://"),
    ],
)
def test_a_broker_that_there_is_not_is_refused_with_those_there_are(url, told):
    with pytest.raises(ConfigurationError, match=f"^{told}.* Use memory://"):
        open_broker(Settings(broker=url))


def test_a_refusal_does_not_tell_the_brokers_password():
    with pytest.raises(ConfigurationError) as refused:
        open_broker(Settings(broker="carrier-pigeon://user:secret@loft"))
    assert "secret" not in str(refused.value)
