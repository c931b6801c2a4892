"""How much of the platform's storage is read at once. Apart from `Storage`, which parsing a DAG need not import."""

from __future__ import annotations

RESULT_LIMIT = 2**20  # bytes of a result file, whose content becomes an XCom
PICTURE_LIMIT = 32 * 2**20  # bytes of a picture for a served program
FOLDER_LIMIT = 10_000  # entries of a folder that is searched for a name
