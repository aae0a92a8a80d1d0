from hubbub.load.latencies import Latencies


def test_percentiles_are_the_least_that_so_many_do_not_exceed():
    latencies = Latencies()
    for number in range(1, 101):
        latencies.add(number / 1000)
    assert len(latencies) == 100
    assert latencies.percentile(50) == 0.05
    assert latencies.percentile(99) == 0.099
    assert latencies.percentile(100) == latencies.longest == 0.1


def test_one_outlier_is_the_longest_and_not_the_99th_percentile():
    latencies = Latencies()
    for _ in range(999):
        latencies.add(0.002)
    latencies.add(1.5)
    assert latencies.percentile(99) == 0.002
    assert latencies.longest == 1.5


def test_without_any_there_is_nothing():
    latencies = Latencies()
    latencies.add(1)
    latencies.clear()
    assert (len(latencies), latencies.percentile(99), latencies.longest) == (0, 0, 0)
