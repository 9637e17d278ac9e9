"""The command line: what each command prints, what it answers to mistakes, and that it starts at once."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import click
import pytest
import torch
import transformers
from click.shell_completion import ShellComplete

from cli import main as cli
from cli import terminal
from cli.options import separated
from exporters.schemes import SCHEMES
from sixfold.errors import GateError, SixfoldError, UsageError
from sixfold.sizes import count

DEMO = "demo/minimax-m2-4.6m"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["export", "--help"], ["recipes", "--names"]])
def test_help_starts_without_the_heavy_libraries(arguments: list[str]) -> None:
    code = (
        "import sys; from cli.main import run; "
        f"assert run({arguments!r}) == 0; "
        "print([m for m in ('torch', 'transformers', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "nowhere"],
        ["inspect", "/nowhere"],
        ["export", DEMO, "fp9"],
        ["calibrate", DEMO, "./nowhere.yaml"],
        ["status", DEMO, "fp8", "--threads", "2"],
        ["recipes", "fp9"],
        ["prune", DEMO],
        ["verify"],
        ["verify", "/nowhere"],
        ["verify", "--against", "/nowhere"],
        ["suggest", "/nowhere", "--against", DEMO],
    ],
)
def test_wrong_usage_is_answered_before_the_heavy_libraries_are_imported(arguments: list[str]) -> None:
    code = (
        "import sys; from cli.main import run; "
        f"assert run({arguments!r}) in (1, 2); "
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert f"Example: sixfold {name}" in " ".join(out.split())


def test_the_list_of_commands_cuts_no_sentence_short(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    listed = out.split("Commands:")[1].split("Example:")[0]
    assert code == 0
    assert [line.split()[0] for line in listed.splitlines() if line.strip()] == list(cli.COMMANDS)
    assert "..." not in listed


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_example_of_every_command_is_good_usage(name: str) -> None:
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    assert command.epilog is not None
    words = command.epilog.removeprefix("Example: sixfold ").split()
    assert words[0] == name
    with command.make_context(name, words[1:]) as context:
        assert all(context.params[argument.name] for argument in command.params if argument.required)


def test_inspect_prints_what_the_demo_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect", DEMO)
    assert code == 0
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "4,593,680 parameters in 71 tensors: 9.19 MB BF16, 64 B F32" in rows
    assert "2 layers, 8 experts, 2 per token" in rows
    assert "expert gate 256 x 256 16 2.1 MB yes" in rows
    assert "router gate 8 x 256 2 8.19 kB no" in rows
    assert any(r.startswith("model.layers.*.post_attention_layernorm.weight 2") and "gate} yes" in r for r in rows)
    assert "model.layers.*.block_sparse_moe.experts.*.{w1, w3} 16" in rows
    assert "model.layers.*.block_sparse_moe.e_score_correction_bias (F32) 2 64 B" in rows


def test_inspect_as_json_names_every_linear(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect", DEMO, "--json", "--name", "other")
    assert code == 0
    data = json.loads(out)
    assert data["name"] == "other"
    assert data["provenance"]["authors"] == "the sixfold project"
    linears = {linear["name"]: linear for linear in data["architecture"]["linears"]}
    assert len(linears) == 2 * (8 * 3 + 1 + 4) + 1
    assert linears["model.layers.1.block_sparse_moe.experts.7.w2"]["in_features"] == 256


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "exprot")
    assert code == 2
    assert "No such command 'exprot': did you mean export?" in err
    assert "the commands are inspect, plan," in run(capsys, "zzz")[2]


@pytest.mark.parametrize(
    ("words", "begun", "completed"),
    [
        ([], "exp", ["export"]),
        (["export"], "dem", "a path"),
        (["export", "demo"], "nv", ["nvfp4", "nvfp4-auto", "nvfp4-gb10"]),
        (["export", "demo", "nvfp4"], "./my", "a path"),
        (["export", "demo"], "--no-v", ["--no-verify"]),
        (["verify", "--against"], "dem", "a path"),
        (["recipes"], "aw", ["awq"]),
    ],
)
def test_completion_knows_commands_formats_options_and_where_a_path_stands(
    words: list[str], begun: str, completed: list[str] | str
) -> None:
    found = ShellComplete(cli.cli, {}, "sixfold", "_SIXFOLD_COMPLETE").get_completions(words, begun)
    if completed == "a path":
        assert [(item.type, item.value) for item in found] == [("file", begun)]
    else:
        assert [item.value for item in found] == completed


@pytest.mark.parametrize("name", ["inspect", "plan", "status", "budget", "calibrate"])
def test_only_what_writes_cards_takes_provenance(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--base-model" not in run(capsys, name, "--help")[1]
    assert "--base-model" in run(capsys, "export", "--help")[1]


def test_doctor_says_what_is_there_and_what_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_SecretSecretSecret")
    code, out, _ = run(capsys, "doctor", "--json")
    parts = {part["name"]: part for part in json.loads(out)}
    assert code == 0
    assert parts["torch"]["found"].startswith(torch.__version__.split("+")[0])
    assert parts["transformers"]["found"] == transformers.__version__
    assert all(part["use"] for part in parts.values())
    assert "Secret" not in out
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("cli.installed.version", missing)
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "compressed-tensors: `make all-formats` installs it" in out


def missing(name: str) -> str:
    raise PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("together", "overrides"),
    [
        ("", ()),
        ("calibration.samples=3", ("calibration.samples=3",)),
        ('keep=["a b", "c"] calibration.samples=3', ('keep=["a b", "c"]', "calibration.samples=3")),
        ("calibration.texts=[builtin, my chats.jsonl]", ("calibration.texts=[builtin, my chats.jsonl]",)),
        ("nonsense a=1", ("nonsense", "a=1")),
    ],
)
def test_settings_in_one_text_may_have_spaces(together: str, overrides: tuple[str, ...]) -> None:
    assert separated(together) == overrides


def test_a_rate_below_one_is_told_the_other_way_round() -> None:
    assert terminal._rate(3.2, "layers") == "3 layers/s"
    assert terminal._rate(1 / 12, "layers") == "12 s/layer"
    assert terminal._rate(0.5, "B") == "0 B/s"


def test_every_scheme_that_is_listed_is_one_that_its_exporter_makes(capsys: pytest.CaptureFixture[str]) -> None:
    from exporters import fp8, nvfp4
    from exporters.ggml.type_mix import PRESETS
    from exporters.gguf import AUTO
    from exporters.registry import exporter_names

    assert set(SCHEMES) == set(exporter_names()) - {"llmcompressor"}
    assert set(SCHEMES["gguf"]) == {*PRESETS, AUTO}
    assert set(SCHEMES["nvfp4"]) == set(nvfp4._SCHEMES)
    assert set(SCHEMES["fp8"]) == {scheme for schemes in fp8._SCHEMES.values() for scheme in schemes}
    listed = run(capsys, "recipes")[1]
    assert "  nvfp4: NVFP4A16, NVFP4\n" in listed


def test_recipes_refuses_a_scheme_that_plan_would_refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nextends: gguf-q4_k_m\nscheme: Q4_KM\n")
    code, _, err = run(capsys, "recipes", str(path))
    assert code == 2
    assert f"{path}:3: scheme: the exporter gguf makes no 'Q4_KM'; perhaps Q4_K_M is meant" in err


def test_recipes_lists_names_that_resolve(capsys: pytest.CaptureFixture[str]) -> None:
    names = run(capsys, "recipes", "--names")[1].split()
    assert {"bf16", "fp8", "nvfp4", "nvfp4-gb10", "awq", "gguf-q4_k_m", "gguf", "all-formats"} <= set(names)
    listed = run(capsys, "recipes")[1]
    assert all(re.search(rf"^  {re.escape(name)} ", listed, re.MULTILINE) for name in names)
    data = json.loads(run(capsys, "recipes", "--json")[1])
    assert data["sets"]["gguf"][0] == "gguf-q3_k_m"
    assert data["calibration_profiles"] == ["reap"]
    assert "Calibration profiles (--set calibration.profile=NAME): reap." in listed


def test_recipes_prints_a_resolved_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "recipes", "bf16", "--set", "calibration.samples=3", "--json")
    assert code == 0
    (recipe,) = json.loads(out)
    assert recipe["scheme"] == "BF16"
    assert recipe["calibration"]["samples"] == 3


def test_the_schema_beside_the_recipes_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "recipes", "--schema")[1] == Path("recipes/schema.json").read_text(), (
        "run `sixfold recipes --schema > recipes/schema.json`"
    )


def test_bad_usage_is_2_and_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "nonsense")[0] == 2
    assert run(capsys, "inspect")[0] == 2
    code, _, err = run(capsys, "recipes", "fp9")
    assert (code, err) == (2, "sixfold: there is no recipe 'fp9'; perhaps fp8 is meant.\n")
    code, _, err = run(capsys, "recipes", "bf16", "bf16")
    assert (code, err) == (2, "sixfold: bf16 was given more than once; name each format once.\n")


def test_a_pre_tokenizer_that_llama_cpp_lacks_is_refused_with_its_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nextends: gguf-q8_0\noptions:\n  tokenizer_pre: minimax-m3\n")
    code, _, err = run(capsys, "recipes", str(tmp_path / "mine.yaml"))
    assert code == 2
    assert "mine.yaml:4: options.tokenizer_pre: 'minimax-m3': llama.cpp has no pre-tokenizer of that name" in err
    assert "(perhaps minimax-m2 is meant); its names are a.x-4.0, afmoe" in err
    assert "youtu" in err
    code, _, err = run(capsys, "plan", DEMO, "gguf-q8_0", "--set", "options.tokenizer_pre=gpt2")
    assert (code, "--set: options.tokenizer_pre: 'gpt2': llama.cpp has no" in err) == (2, True)


def test_recipes_that_would_replace_each_other_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Two artifacts of one place: the second would silently take the first one's."""
    for name, extended in (("mine", "fp8"), ("other", "gguf-q4_k_m")):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nextends: {extended}\n")
    code, _, err = run(capsys, "recipes", "fp8", str(tmp_path / "mine.yaml"))
    message = "fp8 and mine would replace each other: both are <model>-FP8; give one of them a `suffix` of its own."
    assert (code, err) == (2, f"sixfold: {message}\n")
    code, _, err = run(capsys, "recipes", "gguf", str(tmp_path / "other.yaml"))
    assert "gguf-q4_k_m and other would replace each other: both are <model>-GGUF-Q4_K_M" in err


def test_a_missing_model_is_1_and_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "inspect", "/nowhere/at/all")
    assert (code, out, err) == (1, "", "sixfold: there is no folder /nowhere/at/all; check the path.\n")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SixfoldError("it broke", "mend it"), 1, "sixfold: it broke; mend it.\n"),
        (UsageError("it is wrong"), 2, "sixfold: it is wrong.\n"),
        (GateError("KL is 0.2"), 3, "sixfold: KL is 0.2.\n"),
        (
            PermissionError(13, "Permission denied", "out/tiny"),
            1,
            (
                "sixfold: out/tiny: Permission denied; check the disk and its permissions,"
                " and run the same command again to resume.\n"
            ),
        ),
        (KeyboardInterrupt(), 130, "sixfold: interrupted; run the same command again to resume.\n"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_with(error, monkeypatch)
    found, _, err = run(capsys, "recipes")
    assert found == code
    assert err.lstrip("\n") == message


def test_an_unexpected_error_is_one_sentence_and_a_saved_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fail_with(RuntimeError("tensor\nlost"), monkeypatch)
    code, _, err = run(capsys, "recipes")
    assert code == 1
    (saved,) = tmp_path.iterdir()
    assert err == f"sixfold: unexpected RuntimeError: tensor lost; the traceback is in {saved}, please report it.\n"
    assert "in fail" in saved.read_text()


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("cli.commands.recipes.command", click.Command("recipes", callback=fail))


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "sixfold", "recipes"], stdout=pipe, stderr=subprocess.PIPE, text=True
        )
    assert done.stderr == ""


def test_progress_is_silent_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress("reading", 10, "B") as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_a_line_for_every_tenth_of_what_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1000 tokens, a hundred a minute: nine lines, and none for what follows within half a minute."""
    clock = iter(range(0, 10**6, 6))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with terminal.progress("calibrating", 1000, "tokens") as advance:
        for _ in range(100):
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9
    assert lines[0] == "calibrating: 10% of 1,000 tokens, 2 tokens/s, 9 min left"
    assert lines[-1] == "calibrating: 90% of 1,000 tokens, 2 tokens/s, 1 min left"


def test_a_note_that_several_have_stands_once(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_notes([("fp8", ("head kept",)), ("awq", ("head kept", "norms rescaled")), ("bf16", ())])
    assert capsys.readouterr().out == "  fp8, awq: head kept\n  awq: norms rescaled\n"


def test_a_single_thing_is_not_counted_out_of_one() -> None:
    found = [terminal.share(*numbers, "variant") for numbers in ((1, 1), (0, 1), (2, 3), (3, 3))]
    assert found == ["1 variant", "no variant", "2 of 3 variants", "3 of 3 variants"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (4_593_680, "4.59 million"), (139e9, "139 billion"), (1.04e12, "1.04 trillion")],
)
def test_counts_are_in_words(number: float, text: str) -> None:
    assert count(number) == text


def test_progress_shows_rate_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with terminal.progress("reading", 4_000_000, "B") as advance:
        advance(2_000_000)
    err = capsys.readouterr().err
    assert "reading" in err
    assert "50%" in err
    assert "B/s" in err


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345_678, "12.3 MB"), (278e9, "278 GB"), (1.5e12, "1.5 TB")],
)
def test_sizes_are_decimal(nbytes: float, text: str) -> None:
    assert terminal.size(nbytes) == text


def test_a_termination_is_told_as_an_interruption_is() -> None:
    kill = "import os, signal; kill = lambda **options: os.kill(os.getpid(), signal.SIGTERM)"
    script = f"{kill}; from cli import main; main.cli.callback = kill; main.main(['recipes', '--names'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stderr.strip() == "sixfold: terminated; run the same command again to resume."
