"""Three claims that tests of the lesson's handle judge: two ratios and an equality."""

from pathlib import Path

THREE_CLAIMS = Path(__file__).with_suffix(".toml")
