"""The shell line with which a job saves a model, in any image that has a shell and ``cp``, ``mkdir``, ``mv``, ``rm``.

It does what `storage.saving` does on a file system, with the same names and the same manifest. So it may be interrupted
anywhere and run again, as the platform does after an eviction, and a job and a worker may save the same model.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from airflow_bitahub.storage.manifest import MANIFEST, saver_of
from airflow_bitahub.storage.saving import IfExists

SOURCE, TARGET = "/source", "/output"  # where the job sees the trained model, and the folder in which it saves

# The variables: t is what is to exist, h the half of it, a what is moved aside, p the previous one, o an older one.
_FUNCTIONS = (
    # Return whether a folder is complete, and this job's.
    'own() { { IFS= read -r line < "$1/$m"; } 2>/dev/null || return 1; '
    'case $line in "$by"*) return 0;; esac; return 1; }',
    # Let what was moved aside be the previous one. What was that before is removed.
    'tidy() { if [ -e "$a" ]; then rm -rf "$o"; [ ! -e "$p" ] || mv "$p" "$o"; mv "$a" "$p"; rm -rf "$o"; fi; }',
    # Rename the half. Where mv has no -T and somebody else was quicker, it lands inside theirs, and is taken back.
    'publish() { mv -T "$h" "$t" 2>/dev/null && return 0; [ ! -e "$t" ] || return 1; mv "$h" "$t" || return 1; '
    '[ ! -e "$t/$h" ] || { mv "$t/$h" .; return 1; }; }',
    # Set q to a text as JSON has it. This needs no program but the shell.
    'quote() { q=$1; case $q in *[\\"\\\\]*) q=; r=$1; while [ -n "$r" ]; do c=${r%"${r#?}"}; r=${r#?}; '
    'case $c in \\"|\\\\) q=$q\\\\$c;; *) q=$q$c;; esac; done;; esac; }',
    # Print a file's entry in the manifest, without what this image has no program for.
    'entry() { case $1 in *[[:cntrl:]]*) echo "the manifest leaves out a file with an odd name: $1" >&2; return 0;; '
    'esac; quote "${1#./}"; s=null; d=null; if [ -n "$w" ]; then s=$(($(wc -c < "$1"))); fi; '
    'if [ -n "$x" ]; then d=$(sha256sum < "$1"); d=\\"${d%% *}\\"; fi; '
    'printf \'%s\\n{"path": "%s", "size": %s, "sha256": %s}\' "$comma" "$q" "$s" "$d"; comma=,; }',
    'walk() { for f in "$1"/* "$1"/.[!.]* "$1"/..?*; do if [ -h "$f" ]; then :; elif [ -d "$f" ]; then walk "$f"; '
    'elif [ -f "$f" ]; then entry "$f"; fi; done; }',
)


@dataclass(frozen=True)
class ModelScript:
    """What a job needs to know for saving a model.

    :param name: the folder in `TARGET` that is to exist
    :param folder: the folder in `SOURCE` that is copied, under its own name; None: all that is there
    :param first_line: of the manifest
    :param token: identifies the task's generation; of its jobs, only one is alive
    :param attempt: counts these jobs
    :param if_exists: as in `storage.saving.Saving`
    """

    name: str
    folder: str | None
    first_line: str
    token: str
    attempt: int
    if_exists: IfExists

    def line(self) -> str:
        """Return the shell line."""
        mine = f".{self.name}.{self.token}"
        values = {
            "m": MANIFEST,
            "by": saver_of(self.first_line),
            "t": self.name,
            "h": f"{mine}-{self.attempt}.partial",
            "a": f"{mine}.aside",
            "p": f".{self.name}.previous",
            "o": f"{mine}-old.partial",
        }
        return "; ".join(
            (
                f"set -e; cd {TARGET}",
                *(f"{name}={shlex.quote(value)}" for name, value in values.items()),
                *_FUNCTIONS,
                'if own "$t"; then tidy; echo "saved before"; exit 0; fi',
                'if [ -e "$m" ]; then echo "this folder is a model itself, without versions" >&2; exit 1; fi',
                f"taken() {{ {self._taken()}; }}",
                'rmdir "$t" 2>/dev/null || :; if [ -e "$t" ]; then taken; fi',
                # Earlier jobs of this task have ended, and may have been killed.
                f'for f in {shlex.quote(mine)}-*; do [ "$f" = "$h" ] || rm -rf "$f"; done',
                'trap \'rm -rf "$h" "$h.manifest"\' EXIT',
                f'if ! own "$h"; then rm -rf "$h"; mkdir "$h"; {self._copy()}; {self._manifest()}; fi',
                self._swap(),
                'tidy; echo "saved $t"',
            )
        )

    def _taken(self) -> str:
        if self.if_exists == "refuse":
            return 'echo "$t exists, and another job made it (if_exists=refuse)" >&2; exit 1'
        if self.if_exists == "keep":
            return 'echo "$t exists, and is kept"; exit 0'
        return (
            'for f in "$t"/*/"$m"; do if [ -e "$f" ]; then '
            'echo "$t contains versions of the model, which are not replaced" >&2; exit 1; fi; done'
        )

    def _copy(self) -> str:
        if self.folder is None:
            return f'cp -R {SOURCE}/. "$h/"; rm -f "$h/$m"'
        return f'cp -R {SOURCE}/{shlex.quote(self.folder)} "$h/"'

    def _manifest(self) -> str:
        """Return how to describe the half. The manifest gets its name when it is complete."""
        return (
            "w=$(command -v wc || :); x=$(command -v sha256sum || :); "
            '[ -n "$w$x" ] || echo "this image has no wc and no sha256sum: the manifest has no sizes and digests" >&2; '
            f'( cd "$h"; comma=; printf \'%s\\n"files": [\' {shlex.quote(self.first_line)}; walk .; '
            f'if [ -z "$comma" ]; then echo "there is no file to save" >&2; exit 1; fi; printf \'\\n]}}\\n\' ) '
            '> "$h.manifest"; mv "$h.manifest" "$h/$m"'
        )

    def _swap(self) -> str:
        """Return how to rename the half. Who replaces a folder moves the old one aside, as often as others save it."""
        aside = '; tidy; mv "$t" "$a" || [ ! -e "$t" ]' if self.if_exists == "replace" else ""
        return (
            'i=0; while :; do rmdir "$t" 2>/dev/null || :; '
            f'if [ -e "$t" ]; then taken{aside}; fi; if publish; then break; fi; '
            '[ -e "$t" ] || { [ ! -e "$a" ] || mv "$a" "$t"; echo "$t could not be renamed" >&2; exit 1; }; '
            'i=$((i+1)); [ "$i" -lt 20 ] || { echo "others save $t at the same time" >&2; exit 1; }; done'
        )
