"""Container paths in commands and environment values, and the folder of links they lead to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_bitahub.emulator.mounts.symlinks import PathMap, SymlinkWorkdir
from airflow_bitahub.emulator.mounts.workdir import BindMount, normalize_mount_path
from airflow_bitahub.emulator.state.errors import InvalidRequest

MAP = PathMap(
    {
        "/code": "/L/code",
        "/output": "/L/output",
        "/output/deep": "/L/deep",
        "/data/u/MNIST/": "/L/data",
        "/my data": "/L/my-data",
        "/a.b": "/L/a-b",
    }
)


@pytest.mark.parametrize(
    ("text", "mapped"),
    [
        # the document's own
        (
            "cd /code/dense-mnist-tf; python train.py --data-dir /data/u/MNIST/mnist --output-dir /output/dense;",
            "cd /L/code/dense-mnist-tf; python train.py --data-dir /L/data/mnist --output-dir /L/output/dense;",
        ),
        # what may stand before
        ("/output", "/L/output"),
        ("--out=/output", "--out=/L/output"),
        ("'/output' \"/output\"", "'/L/output' \"/L/output\""),
        ("A=/code:/output,/data/u/MNIST", "A=/L/code:/L/output,/L/data"),
        ("(cd /code;/code/run)", "(cd /L/code;/L/code/run)"),
        (
            "x>/output/log 2>&1 </code/in|/code/run&/code/run",
            "x>/L/output/log 2>&1 </L/code/in|/L/code/run&/L/code/run",
        ),
        ("`/code/run` $(/code/run) {/code,/output}", "`/L/code/run` $(/L/code/run) {/L/code,/L/output}"),
        ("curl -F file=@/output/x", "curl -F file=@/L/output/x"),
        ("a\n/output\n", "a\n/L/output\n"),
        ("file:///output/x", "file:///L/output/x"),
        ('sh -c "echo \\"/output\\""', 'sh -c "echo \\"/L/output\\""'),
        # what may follow
        ("/output/", "/L/output/"),
        ("ls /output/* /output*", "ls /L/output/* /L/output*"),
        # the longest first, and what was mapped is not mapped again
        ("/output/deep/x /output/deeper /output/x", "/L/deep/x /L/output/deeper /L/output/x"),
        # other paths
        ("/output2 /output-2 /output_2 /output.txt /outputs/x", "/output2 /output-2 /output_2 /output.txt /outputs/x"),
        ("/my/output ./output ../output ~/output out/output", "/my/output ./output ../output ~/output out/output"),
        ("$HOME/output ${HOME}/output $(pwd)/output $1/output", "$HOME/output ${HOME}/output $(pwd)/output $1/output"),
        ("/output$n /output${n}", "/output$n /output${n}"),
        ("http://host/output https://x:80/code", "http://host/output https://x:80/code"),
        ("//output /srv//output */output [ab]/output", "//output /srv//output */output [ab]/output"),
        ("/OUTPUT output code", "/OUTPUT output code"),
        ("/outputé é/output", "/outputé é/output"),
        ("/data/u /data/u/MNIST2 /data", "/data/u /data/u/MNIST2 /data"),
        # names with characters that mean something elsewhere
        ("'/my data/x'", "'/L/my-data/x'"),
        ("/a.b /aXb", "/L/a-b /aXb"),
        ("", ""),
    ],
)
def test_path_map(text: str, mapped: str) -> None:
    assert MAP(text) == mapped


def test_no_mounts() -> None:
    assert PathMap({})("/output") == "/output"


@pytest.mark.parametrize(
    ("path", "plain"), [("/code", "/code"), ("/code/", "/code"), ("//a//b/./c/", "/a/b/c"), ("/...", "/...")]
)
def test_clean(path: str, plain: str) -> None:
    assert normalize_mount_path(path) == plain


@pytest.mark.parametrize("path", ["/", "", "code", "//", "/./", "/a/../b", "/..", "/a\0"])
def test_clean_refuses(path: str) -> None:
    with pytest.raises(InvalidRequest, match="nothing can be mounted"):
        normalize_mount_path(path)


def test_folder_of_links(tmp_path: Path) -> None:
    first, second = tmp_path / "with space" / "first", tmp_path / "with space" / "second"
    first.mkdir(parents=True)
    second.mkdir()
    (second / "kept").write_text("kept")
    with SymlinkWorkdir({"/a/b": BindMount(first), "/a-b": BindMount(second)}, Path(sys.executable)) as folder:
        assert " " not in str(folder.path)
        assert folder.map_paths("/a/b") != folder.map_paths("/a-b")
        assert Path(folder.map_paths("/a/b")).resolve() == first
        assert Path(folder.map_paths("/a-b")).resolve() == second
        env = folder.environment()
        prefix = subprocess.run(
            ["python", "-c", "import sys; print(sys.prefix)"], env=env, capture_output=True, text=True, check=True
        )
        assert prefix.stdout.strip() == sys.prefix
        assert os.environ.keys() & env.keys() <= {"PATH", "HOME", "TMPDIR", "LANG", "PYTHONUNBUFFERED"}
    assert not folder.path.exists()
    assert (second / "kept").read_text() == "kept"
