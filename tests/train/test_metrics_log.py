import io
import json
import time

from cola_jax.train.metrics import MetricsLog, metrics_path, read_metrics
from cola_jax.train.plots import plot_metrics
from cola_jax.train.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_resumed_log_drops_later_lines_and_a_torn_one(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in range(1, 6):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    with metrics_path(tmp_path).open("a") as file:
        file.write('{"step": 6, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    log = MetricsLog(tmp_path, 3)
    log.write(4, {"loss": 7.0})
    log.close()
    lines = [json.loads(text) for text in metrics_path(tmp_path).read_text().splitlines()]
    assert lines == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 1 / 3},
        {"step": 4, "loss": 7},
    ]


def test_the_bits_of_a_loss_survive_the_log(tmp_path):
    log = MetricsLog(tmp_path, 0)
    value = 0.1 + 0.2
    log.write(1, {"loss": value, "other": float("nan"), "heldout/loss": float("inf")})
    log.close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": value, "other": None, "heldout/loss": None}]


def test_tensorboard_gets_every_metric(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"loss": 2.0, "heldout/loss": 3.0})
    log.close()
    data = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"train/loss" in data
    assert b"heldout/loss" in data


def test_training_and_heldout_share_a_picture(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in range(1, 4):
        log.write(step, {"loss": step, "grad_norm/dit": 1.0, "odd": float("nan")})
        log.write(step, {"heldout/loss": step})
    log.close()
    names = [path.name for path in plot_metrics(tmp_path)]
    assert names == ["grad_norm_dit.png", "loss.png"]
    assert all((tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_off_a_terminal_progress_is_plain_lines():
    stream = io.StringIO()
    progress = Progress(stream, 0, 100, 10)
    progress.advance(1, 2.0)
    time.sleep(0.02)
    progress.advance(2, 2.0)
    assert progress.report(2, 2.0) > 0
    progress.close()
    assert stream.getvalue().startswith("step 2/100  loss 2.0000  ")
    assert "tokens/s" in stream.getvalue()
    assert "left" in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_on_a_terminal_progress_is_a_bar_with_loss_and_speed():
    stream = Terminal()
    progress = Progress(stream, 0, 3, 10)
    for step in (1, 2, 3):
        progress.advance(step, 2.5)
        time.sleep(0.01)
        progress.report(step, 2.5)
    progress.close()
    assert "loss 2.5000" in stream.getvalue()
    assert "tokens/s" in stream.getvalue()
    assert "3/3" in stream.getvalue()


def test_pauses_do_not_count_as_training_time():
    rates = []
    for paused in (False, True):
        progress = Progress(None, 0, 10, 1000)
        progress.advance(1, 0.0)
        if paused:
            with progress.pause():
                time.sleep(0.3)
        time.sleep(0.05)
        rates.append(progress.report(2, 0.0))
    assert rates[1] > rates[0] / 2


def test_durations_read_as_a_clock():
    assert [clock(5), clock(65), clock(3725)] == ["0:05", "1:05", "1:02:05"]


def test_mfu_stands_in_every_line_where_the_peak_is_known():
    stream = io.StringIO()
    progress = Progress(stream, 0, 10, tokens_per_step=100, mfu_of=lambda rate: rate * 1e-9)
    progress.report(1, 2.0)
    progress.advance(1, 2.0)
    time.sleep(0.01)
    assert progress.report(2, 2.0) > 0
    first, second = stream.getvalue().splitlines()
    assert "MFU" not in first and "tokens/s  MFU 0.0%" in second
