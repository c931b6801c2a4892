"""What both sites share: the pictures, and for the Chinese one the pages that exist only in English."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HERE = Path(__file__).parent
ENGLISH = HERE / "en"
NOTE = '!!! note "本页只有英文版"\n\n'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the shared pictures, and what exists only in English."""
    for folder, prefix in ((ENGLISH, Path()), (HERE / "images", Path("images"))):
        for path in sorted(folder.rglob("*")):
            source = (prefix / path.relative_to(folder)).as_posix()
            if path.is_file() and files.get_file_from_path(source) is None:
                # A page's `src_dir` must contain `src_path`.
                root = folder.parent if prefix.parts else folder
                files.append(File(source, str(root), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 (mkdocs' names)
    """Say above an English page of the Chinese site that it has no translation."""
    if config.theme["language"] != "zh" or page.file.src_dir != str(ENGLISH):
        return markdown
    title, _, rest = markdown.partition("\n")
    return f"{title}\n\n{NOTE}{rest}" if title.startswith("# ") else f"{NOTE}{markdown}"
