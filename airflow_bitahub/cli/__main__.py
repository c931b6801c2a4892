"""``python -m airflow_bitahub.cli``."""

from __future__ import annotations

import sys

from airflow_bitahub.cli import main

sys.exit(main())
