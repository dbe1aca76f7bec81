"""The API form of each template, as the table in docs/workflows.md names them.

A template's file name is its title in the template browser; an API form's is for the command line.
"""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "workflows.md"
API_FORMS = dict(re.findall(r"^\| ([^|`]+) \| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
