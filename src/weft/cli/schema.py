"""`weft schema`: what a recipe may say, for editors that complete and check YAML."""

from __future__ import annotations

import typer


def schema() -> None:
    """Print the JSON schema of recipes.

    **Example**: `weft schema > recipe.schema.json`, and in the recipe's first line
    `# yaml-language-server: $schema=recipe.schema.json`
    """
    import json

    from weft.recipes.json_schema import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))
