"""README and docs: links lead somewhere, commands parse, names exist, and what is generated is up to date."""

import ast
import functools
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
import unicodedata
from pathlib import Path

import pytest

from cola_jax import cli, config
from cola_jax.commands import arguments
from cola_jax.config import paths, reference
from cola_jax.evaluate.records import read_records

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
GROUPS = "data|tokenizer|vae|dit|backbone|llada|plaid|flow|objective|optimizer|train|checkpoint|mesh|compute|sampling"
NO_FIELDS = {"sampling.NAME", "mesh.*", "checkpoint.*", "sampling.*"}  # patterns that stand for several
REFERENCE = re.compile(r"\b(SPEC|BASELINES) (\d(?:\.\d)?)((?:(?:,| and) \d(?:\.\d)?(?![\d.]*[\w]))*)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def prose(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def fences(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def code_spans(page):
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def anchors(page):
    """The anchors that GitHub and the site both give a page's headings, and those that it sets itself."""
    text = prose(page)
    found = set(re.findall(r'<a id="([^"]+)"', text))
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        site = re.sub(r"[-\s]+", "-", unicodedata.normalize("NFKD", plain))
        found |= {site} if plain.replace(" ", "-") == site else set()
    return found


@each_page
def test_links_lead_to_files_and_headings(page):
    text = prose(page)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{page.name}: {target} leads nowhere"
        assert page.parent != DOCS or DOCS in file.parents, f"{page.name}: {target} is not a part of the site"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target} names no heading"


def test_the_readme_is_short_and_links_to_every_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    missing = [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in text]
    assert not missing


def test_the_sites_navigation_has_every_page():
    pages = set(re.findall(r"^  - [\w ]+: (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    assert pages == {page.name for page in DOCS.glob("*.md")}


def references():
    """(reference, file) of every "SPEC n" and "BASELINES n" in code, tests and pages."""
    files = [
        path for folder in ("cola_jax", "experiments", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.*")
    ]
    for path in [*files, *PAGES]:
        if path.suffix in (".py", ".toml", ".md"):
            for match in REFERENCE.finditer(path.read_text()):
                for number in (match[2], *re.findall(r"\d(?:\.\d)?", match[3])):
                    yield f"{match[1]} {number}", path


def test_every_reference_to_the_specification_has_its_heading():
    text = (DOCS / "mathematics.md").read_text()
    pattern = r'^<a id="([\w.-]+)"></a>\n#+ ((?:SPEC|BASELINES) [\d.]+\d|(?:SPEC|BASELINES) \d):'
    headings = dict(map(reversed, re.findall(pattern, text, flags=re.MULTILINE)))
    assert all(anchor == name.lower().replace(" ", "-") for name, anchor in headings.items())
    found = list(references())
    assert len({name for name, _ in found}) > 15
    missing = {name: str(path.relative_to(ROOT)) for name, path in found if name not in headings}
    assert not missing


def test_the_page_of_config_fields_is_up_to_date():
    assert (DOCS / "configuration.md").read_text() == reference.page(), (
        "run python -m cola_jax.config.reference > docs/configuration.md"
    )


def test_the_page_of_config_fields_knows_who_reads_a_field_and_its_range():
    text = " ".join(reference.page().split())
    one = lambda path: re.search(rf"### {re.escape(path)} (.*?) ###? ", text)[1]
    assert one("train.batch_size").startswith("int; default `1408`; at least 1; **identity**; read by all families.")
    assert "read by llada." in one("llada.random_length_probability")
    assert "between 0 and 1; **identity**" in one("llada.random_length_probability")
    assert "(if `optimizer.schedule` is wsd)" in one("optimizer.cooldown_steps")
    assert "read by kinds arrow, tfds." in one("data.sources.0.split")
    assert "(if `sampling.temperature` is above 0)" in one("sampling.top_k")
    assert "float or None; default `None`" in one("vae.fixed_logsnr")
    for path in paths.metadata():
        assert f"### {path} " in text


def commands(page):
    """Every command of a page's shell blocks, as words, without what stands before `cola-jax` or `python`."""
    for block in fences(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                if "launch/" in part:
                    yield ["cola-jax", "train", *words[words.index("--config") :]]
                elif words:
                    yield words


def parsed(words):
    """The options of a `cola-jax` command as the program reads them; assigned fields under `assignments`."""
    options, rest = cli.build_parser().parse_known_args(words)
    arguments.check(options, rest)
    options.assignments = cli.assigned(options, rest)
    return options


@each_page
def test_commands_are_those_of_the_program_and_their_configs_load(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in commands(page):
        if words[0] == "cola-jax":
            options = parsed(words[1:])
            specs = getattr(options, "configs", None) or [getattr(options, "config", None)]
            for spec in filter(None, specs):
                config.resolve(config.override(config.load(spec), options.assignments))
            if hasattr(options, "_sampling"):
                assert all(f"sampling.{name}" in paths.metadata() for name, _ in options.assignments)
        elif words[:2] == ["python", "-m"]:
            check_module(words[2], words[3:])
        elif words[:2] == ["pip", "install"]:
            named = re.findall(r"\.\[([\w,-]+)\]", " ".join(words))
            assert named and set(named[0].split(",")) <= set(extras)
            assert all((ROOT / word).is_file() for word in words if word.startswith("constraints/"))
        else:
            assert words[0] in ("mkdocs", "sbatch"), f"{page.name}: {words}"


def check_module(module, options):
    """Asserts that a module of ours exists, and that its options stand in it."""
    if module != "pytest":
        source = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text()
        assert all(f'"{option}"' in source for option in options if option.startswith("--")), f"{module} {options}"


@each_page
def test_commands_in_the_text_have_their_options(page):
    [subparsers] = [action for action in cli.build_parser()._actions if isinstance(action.choices, dict)]
    for span in code_spans(page):
        if not span.startswith("cola-jax "):
            continue
        name, *words = shlex.split(span)[1:]
        known = subparsers.choices[name]._option_string_actions
        for word in words:
            field = word.startswith(("--config.", "--sampling."))
            assert not word.startswith("--") or field or word in known, f"{page.name}: {span}"


@each_page
def test_fields_in_the_text_exist(page):
    known = {path.replace("sources.0.", "sources.") for path in paths.metadata()} | set(paths.metadata())
    known |= {path.rpartition(".")[0] for path in known}
    for span in code_spans(page):
        match = re.fullmatch(rf"(?:--config\.)?((?:{GROUPS})\.[\w.*]+)(?:=.*)?", span)
        if match and match[1] not in NO_FIELDS and not match[1].endswith((".json", ".jsonl", ".i")):
            assert match[1] in known, f"{page.name}: {match[1]}"


@each_page
def test_files_and_modules_in_the_text_exist(page):
    for span in code_spans(page):
        if re.fullmatch(r"(?:cola_jax|experiments|launch|benchmarks|tests|constraints)/[\w/.]+", span):
            assert (ROOT / span).exists(), f"{page.name}: {span}"
        if re.fullmatch(r"cola_jax(?:\.\w+)+", span):
            resolve(span)


def resolve(name):
    """The module, or what a module holds, by its dotted name."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(resolve(module), attribute)


@each_page
def test_python_in_the_pages_imports_what_exists_and_calls_it_by_its_arguments(page):
    for block in fences(page, "python"):
        known = {}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                known |= {alias.name: resolve(f"{node.module}.{alias.name}") for alias in node.names}
        for node in ast.walk(ast.parse(block)):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            first, *rest = called.replace("writer.", "Writer.", 1).split(".")
            if first in known:
                function = functools.reduce(getattr, rest, known[first])
                bound = [None] * (first == "Writer" and rest != ["load"])  # self
                keywords = dict.fromkeys(keyword.arg for keyword in node.keywords)
                inspect.signature(function).bind(*bound, *node.args, **keywords)


def messages():
    """The constant texts of the library and the configs, those of an f-string with … for each value."""
    for path in [*(ROOT / "cola_jax").rglob("*.py"), *(ROOT / "experiments").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_errors_that_are_explained_are_those_of_the_program():
    said = "\n".join(messages())
    quoted = re.findall(r"`([^`]*…[^`]*)`", prose(DOCS / "troubleshooting.md"))
    assert len(quoted) > 40
    for message in quoted:
        for part in re.split("…", message):
            assert len(part.strip()) < 6 or part.strip() in said, f"no message of the program says {part.strip()!r}"


RUNS = [
    "cola-jax compare cola_2b:joint,PREPARED,W ar_2b:PREPARED llada_2b:PREPARED plaid_2b:PREPARED",
    'cola-jax prepare --config "own_text:vae,notes/*.txt" --output prepared/notes',
    "cola-jax score --task mmlu generations/mmlu.jsonl",
]


@pytest.mark.parametrize("line", RUNS, ids=lambda line: line.split()[1])
def test_commands_that_take_seconds_run_as_they_are_documented(line, tmp_path, monkeypatch, capsys):
    assert any(line in page.read_text() for page in PAGES)
    monkeypatch.chdir(tmp_path)
    for folder in ("notes", "prepared", "generations"):
        (tmp_path / folder).mkdir()
    for number in range(8):
        (tmp_path / "notes" / f"{number}.txt").write_text(
            f"It was number {number}. Anna went home with {number} cups. " * 9
        )
    record = {"generate": "two", "answer": "two", "choices": ["one", "two"]}
    (tmp_path / "generations" / "mmlu.jsonl").write_text(json.dumps(record) + "\n")
    assert cli.main(shlex.split(line)[1:]) == 0
    out = capsys.readouterr().out
    if "compare" in line:
        assert re.search(r"core matrices( +1,811,939,328){4}", out)
    elif "prepare" in line:
        assert (tmp_path / "prepared" / "notes" / "metadata.json").is_file()
    else:
        assert re.search(r"release.*100\.00", out), out


def test_the_records_of_the_evaluation_page_are_read(tmp_path):
    [block] = fences(DOCS / "evaluation.md", "json")
    (tmp_path / "questions.jsonl").write_text(block)
    first, second, third = read_records(tmp_path / "questions.jsonl")
    assert first.choices == ("one", "two") and second.answers == ("Anna", "Anna does") and third.prompt


def test_the_pages_name_no_machine_path_and_no_issue():
    for page in PAGES:
        assert not re.search(r"(?<![\w./])/(?:work|tmp|root|home)/|issue #?\d|#\d+", page.read_text()), page.name


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the site is not installed: pip install -e '.[docs]'")
    pytest.importorskip("material", reason="the site's theme is not installed: pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "mathematics" / "index.html").is_file()
