"""The laptop demo: what it needs besides the provider and the emulator."""

from airflow_bitahub.extras import require_extra

require_extra("demo")
