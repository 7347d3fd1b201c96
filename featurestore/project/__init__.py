"""A project's definitions: imported, collected, validated and applied."""
