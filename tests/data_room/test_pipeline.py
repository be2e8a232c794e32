"""Batches: a pure function of (data.seed, i), whatever hosts and restarts; and a prepared corpus gives the same ones."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from cola_jax.config import RunConfig
from cola_jax.config.fields import DataConfig, SourceConfig, TokenizerConfig, TrainConfig
from cola_jax.data import prepare, tokenizers
from cola_jax.data.errors import DataError
from cola_jax.data.pipeline import build_corpus, heldout_batches, train_batches

BATCH = 8
STEPS = 60


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i in range(40):
        (folder / f"{i:02d}.txt").write_text(f"Text {i} has the number {i} and says so {i} times. " * (1 + i % 5))
    return folder


def config(texts, **data):
    sources = (SourceConfig(weight=3.0), SourceConfig(kind="text", path=(str(texts),), weight=1.0))
    fields = {"sources": sources, "generated_documents": 150, "heldout_documents": 20, "heldout_fraction": 0.1} | data
    return RunConfig(
        data=dataclasses.replace(DataConfig(), **fields),
        tokenizer=TokenizerConfig(vocab_size=600),
        train=dataclasses.replace(TrainConfig(), batch_size=BATCH, sequence_length=64),
    )


@pytest.fixture(scope="module", params=["concat", "best_fit"])
def run(request, texts):
    cfg = config(texts, packing=request.param)
    tokenizer = tokenizers.build(cfg)
    return cfg, tokenizer, build_corpus(cfg, tokenizer)


def take(cfg, corpus, count=STEPS, **how):
    return list(itertools.islice(train_batches(cfg, corpus, **how), count))


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def all_same(ones, others):
    """Whether two lists of batches are the same, as many and at least one."""
    return len(ones) == len(others) > 0 and all(map(same, ones, others))


def test_batches_have_the_shapes_of_the_config(run):
    cfg, tokenizer, corpus = run
    batch = take(cfg, corpus, 1)[0]
    shapes = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert shapes == {
        "tokens": ((BATCH, 64), "int32"), "segments": ((BATCH, 64), "int32"), "positions": ((BATCH, 64), "int32"),
        "weights": ((BATCH, 64), "float32"), "rows": ((BATCH,), "int32"),
    }  # fmt: skip
    assert batch["rows"].tolist() == list(range(BATCH)) and batch["tokens"].max() < tokenizer.vocab_size


@pytest.mark.parametrize("hosts", [2, 8])
def test_hosts_together_have_the_batch_of_one_host(run, hosts):
    cfg, _, corpus = run
    whole = take(cfg, corpus)
    shares = [take(cfg, corpus, host_index=host, host_count=hosts) for host in range(hosts)]
    assert len(whole) == STEPS and {len(share) for share in shares} == {STEPS}
    for step, batch in enumerate(whole):
        pieces = [share[step] for share in shares]
        assert same(batch, {name: np.concatenate([piece[name] for piece in pieces]) for name in batch})


def test_a_host_reads_only_its_own_rows(run):
    cfg, _, corpus = run
    read = []

    class Watched:
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            read.append(index)
            return self.rows[index]

    part = dataclasses.replace(corpus.parts[0], train=Watched(corpus.parts[0].train))
    quiet = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, threads=0, prefetch=0))
    take(quiet, dataclasses.replace(corpus, parts=(part,)), 5, host_index=1, host_count=4)
    assert len(read) == 5 * BATCH // 4


@pytest.mark.parametrize("start", [1, 17, 59])
def test_a_restart_continues_with_the_same_batches(run, start):
    cfg, _, corpus = run
    again = take(cfg, corpus, STEPS - start, start_step=start)
    assert len(again) == STEPS - start and all_same(take(cfg, corpus)[start:], again)


def test_threads_and_prefetch_do_not_change_batches(run):
    cfg, _, corpus = run
    slow = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, threads=0, prefetch=0))
    assert all_same(take(cfg, corpus), take(slow, corpus))


def test_another_seed_gives_another_order_and_no_shuffle_the_order_of_the_corpus(run):
    cfg, _, corpus = run
    other = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, seed=2**40 + 5))
    assert not same(take(cfg, corpus, 1)[0], take(other, corpus, 1)[0])
    plain = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, shuffle=False))
    first = dataclasses.replace(corpus, parts=corpus.parts[:1])
    batch = take(plain, first, 1)[0]
    assert np.array_equal(batch["tokens"], np.stack([first.train[i]["tokens"] for i in range(BATCH)]))


def test_an_epoch_has_every_row_once_and_the_next_another_order(run):
    cfg, _, corpus = run
    single = dataclasses.replace(corpus, parts=corpus.parts[:1])
    count = len(single.train)
    rows = [tuple(row) for batch in take(cfg, single, 2 * count // BATCH + 1) for row in batch["tokens"]]
    first, second = rows[:count], rows[count : 2 * count]
    assert sorted(first) == sorted(second) == sorted(tuple(single.train[i]["tokens"]) for i in range(count))
    assert first != second


def test_sources_mix_by_weight(run):
    cfg, _, corpus = run
    second = {tuple(corpus.parts[1].train[i]["tokens"]) for i in range(len(corpus.parts[1].train))}
    rows = [tuple(row) for batch in take(cfg, corpus) for row in batch["tokens"]]
    assert abs(sum(row in second for row in rows) / len(rows) - 0.25) < 0.01


def test_heldout_batches_are_the_same_every_time_and_share_no_row_with_training(run):
    cfg, _, corpus = run
    one, other = heldout_batches(cfg, corpus, 2), heldout_batches(cfg, corpus, 2)
    assert all_same(one, other) and len(one) == 2 and all(batch["tokens"].shape == (BATCH, 64) for batch in one)
    trained = {tuple(corpus.train[i]["tokens"]) for i in range(len(corpus.train))}
    assert not trained & {tuple(row) for batch in one for row in batch["tokens"]}


def test_heldout_batches_have_every_row_once_and_stand_ins_of_weight_zero(run):
    cfg, _, corpus = run
    batches = heldout_batches(cfg, corpus, 10**6)
    rows = [tuple(t) for b in batches for t, w in zip(b["tokens"], b["weights"]) if w.sum() > 0]
    assert sorted(rows) == sorted(tuple(corpus.heldout[i]["tokens"]) for i in range(len(corpus.heldout)))
    halves = [heldout_batches(cfg, corpus, 10**6, host_index=h, host_count=2) for h in (0, 1)]
    for whole, left, right in zip(batches, *halves, strict=True):
        assert same(whole, {name: np.concatenate([left[name], right[name]]) for name in whole})


def test_impossible_batches_and_models_are_refused(run, texts):
    cfg, tokenizer, corpus = run
    with pytest.raises(DataError, match="train.batch_size=8 is not a positive multiple of the 3 hosts"):
        train_batches(cfg, corpus, host_count=3)
    with pytest.raises(DataError, match="host 2 of 2 does not exist"):
        heldout_batches(cfg, corpus, 1, host_index=2, host_count=2)
    small = dataclasses.replace(cfg, vae=dataclasses.replace(cfg.vae, vocab_size=100))
    with pytest.raises(DataError, match=r"vae.vocab_size=100 is smaller than the tokenizer's \d+"):
        build_corpus(small, tokenizer)
    with pytest.raises(DataError, match="nothing is held out"):
        none = config(texts, heldout_documents=0, sources=(SourceConfig(),), packing=cfg.data.packing)
        heldout_batches(none, build_corpus(none, tokenizer), 1)
    with pytest.raises(DataError, match="tinyworld has no training rows"):
        build_corpus(config(texts, generated_documents=0, sources=(SourceConfig(),)), tokenizer)


def prepared_config(cfg, folder):
    source = SourceConfig(kind="prepared", path=(str(folder),))
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, sources=(source,)))


@pytest.fixture(scope="module")
def prepared(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "corpus"
    prepare.prepare_corpus(run[0], folder)
    return folder


def test_a_prepared_corpus_gives_the_batches_of_its_sources(run, prepared):
    cfg, tokenizer, corpus = run
    again = prepared_config(cfg, prepared)
    carried = tokenizers.build(again)
    assert tokenizers.fingerprint(carried) == tokenizers.fingerprint(tokenizer)
    opened = build_corpus(again, carried)
    assert all_same(take(cfg, corpus), take(again, opened))
    assert all_same(heldout_batches(cfg, corpus, 5), heldout_batches(again, opened, 5))


def test_what_does_not_fit_a_prepared_corpus_is_named_with_both_values(run, prepared):
    cfg = prepared_config(run[0], prepared)
    tokenizer = tokenizers.build(cfg)
    other_packing = {"concat": "best_fit", "best_fit": "concat"}[cfg.data.packing]
    changes = {
        "train.sequence_length: prepared with 64, the config has 128": ("train", {"sequence_length": 128}),
        f"data.packing: prepared with '{cfg.data.packing}', the config has": ("data", {"packing": other_packing}),
        "tokenizer.vocab_size: prepared with 600, the config has 700": ("tokenizer", {"vocab_size": 700}),
        "tokenizer.kind: prepared with 'sentencepiece', the config has 'bytes'": ("tokenizer", {"kind": "bytes"}),
    }
    if cfg.data.packing == "best_fit":
        changes["tokens of a block: prepared with 16, the config has 8"] = ("dit", {"block_size": 8})
    for message, (group, fields) in changes.items():
        changed = dataclasses.replace(cfg, **{group: dataclasses.replace(getattr(cfg, group), **fields)})
        with pytest.raises(DataError, match=message):
            build_corpus(changed, tokenizer)
    with pytest.raises(DataError, match="tokenizer: prepared with"):
        build_corpus(cfg, tokenizers.BytesTokenizer())


def test_a_folder_that_is_not_whole_is_not_a_prepared_corpus(run, prepared, tmp_path, monkeypatch):
    cfg = run[0]
    folder = tmp_path / "corpus"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_identity", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare_corpus(cfg, folder)
    assert not list(tmp_path.iterdir()), "what was begun is removed"
    (tmp_path / "corpus.partial").mkdir()  # as a program that was killed leaves it
    with pytest.raises(DataError, match="has no metadata.json"):
        prepare.open_prepared(prepared_config(cfg, folder), run[1])
    (tmp_path / "corpus.partial" / "left over").write_text("x")
    metadata = prepare.prepare_corpus(cfg, folder)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in prepared.iterdir())
    assert metadata == json.loads((prepared / "metadata.json").read_text())


def test_a_prepared_folder_is_not_written_over_and_a_lost_shard_is_named(run, tmp_path):
    cfg, tokenizer, _ = run
    folder = tmp_path / "corpus"
    prepare.prepare_corpus(cfg, folder)
    with pytest.raises(DataError, match="corpus is not an empty folder"):
        prepare.prepare_corpus(cfg, folder)
    (folder / "0-train-00000.array_record").unlink()
    with pytest.raises(DataError, match="lacks 0-train-00000.array_record"):
        build_corpus(prepared_config(cfg, folder), tokenizer)
    with pytest.raises(DataError, match="holds packed tokens"):
        prepare.prepare_corpus(prepared_config(cfg, folder), tmp_path / "twice")
