"""Slips in a recipe and on the command line."""

from __future__ import annotations

from typing import Any

from tests.mistakes.planting import Mistake, Plant, bytes_in, nothing, written


def slip(name: str, change: Any, *says: str, remedy: str) -> Mistake:
    return Mistake(name, says, remedy, change)


def rule(name: str, given: dict[str, Any], *says: str, remedy: str) -> Mistake:
    return Mistake(name, says, remedy, {"rules": [given]})


def typed(name: str, command: str, *says: str, remedy: str, plant: Plant = nothing) -> Mistake:
    return Mistake(name, says, remedy, plant=plant, command=tuple(command.split()), known_early=False)


KEYS = (
    slip(
        "a misspelt key",
        {"modles": ["a"], "models": None},
        "recipe.yaml: models is missing",
        "unknown key 'modles'",
        remedy="did you mean 'models'?",
    ),
    slip("no method", {"method": None}, "method is missing", remedy="a recipe needs at least `method` and `models`"),
    slip("no models", {"models": []}, "error: recipe.yaml: models should not be empty\n",
         remedy="name the models to merge, one `- FOLDER` for each"),
    slip("one model instead of a list", {"models": "a"}, "models should be a list of models",
         remedy="write it as a list, one `- FOLDER` for each model"),
    slip("a model that is nothing", {"models": ["a", None]}, "recipe.yaml: models number 2 is empty",
         remedy="name a model there, or take the line out"),
    slip("a path that is nothing", {"models": ["a", {"path": None}]}, "recipe.yaml: models number 2 is empty",
         remedy="name a model there, or take the line out"),
    slip("a model's key of another kind", {"models": [{"path": "a", "rename": 3}]},
         "error: recipe.yaml: models 1 rename should be a map\n", remedy="see the recipe reference in the README"),
    slip("a key that YAML takes for a number", "method: linear\nmodels: [a, b]\nparameters: {1: 2}\n",
         "recipe.yaml: the key 1 in parameters is not text", remedy="put it in quotation marks: YAML reads numbers, "),
    slip("a key that YAML takes for true", "method: linear\nmodels: [a, b]\non: 2\n",
         "recipe.yaml: the key True is not text", remedy="put it in quotation marks"),
    slip(
        "a model without a path",
        {"models": ["a", {"name": "b", "weight": 2}]},
        "number 2 has no `path`, only name, weight",
        remedy="write `- path: FOLDER`",
    ),
    slip("mergekit's base", {"base_model": "base"}, "unknown key 'base_model'", remedy="write `base:`"),
    slip("mergekit's method", {"merge_method": "ties"}, "unknown key 'merge_method'", remedy="write `method:`"),
    slip("a format at the top", {"dtype": "bfloat16"}, "unknown key 'dtype'", remedy="write `output: {dtype: ...}`"),
    slip("a weight at the top", {"weight": 0.5}, "unknown key 'weight'", remedy="write it under `parameters:`"),
    slip(
        "a misspelt key in the output",
        {"output": {"shardsize": "1GB"}},
        "unknown key 'shardsize' in output",
        remedy="did you mean 'shard_size'?",
    ),
    slip("two models of one name", {"models": [{"path": "a", "name": "x"}, {"path": "b", "name": "x"}]},
         "two models are called 'x'", remedy="give them names that differ"),
    slip("a model called base", {"models": [{"path": "a", "name": "base"}, "b"]},
         "a model cannot be called 'base': that word has a meaning of its own", remedy="give it another `name`"),
    slip("a policy that does not exist", {"on_missing": "ignore"}, "on_missing should be",
         remedy="'error', 'base' or 'skip-model'"),
    slip("another policy that does not exist", {"on_nonfinite": "skip"}, "on_nonfinite should be",
         remedy="'error', 'warn' or 'ignore'"),
)  # fmt: skip

TEXTS = (
    slip("a key given twice", "method: linear\nmodels: [a]\nmethod: ties\n", "the key 'method' is given twice",
         "line 3", remedy="mend the syntax there"),
    slip("no YAML", "method: linear\nmodels: [a, b\n",
         "recipe.yaml: not valid YAML: line 3, column 1: expected ',' or ']', but got '<stream end>', "
         "while parsing a flow sequence that begins in line 2\n",
         remedy="mend the syntax there"),
    slip("a tab", "method: linear\nmodels:\n\t- a\n", "recipe.yaml: not valid YAML", "'\\t'", "line 3",
         remedy="mend the syntax there"),
    slip("a list instead of a map", "- method: linear\n", "a recipe is a map with `method`, `models` and so on",
         remedy="see the recipe reference"),
    slip("an empty recipe", "", "a recipe is a map", remedy="see the recipe reference"),
    slip("YAML that would run code", "method: !!python/object/apply:os.getcwd []\nmodels: [a]\n",
         "not valid YAML", "python/object/apply:os.getcwd", remedy="mend the syntax there"),
    Mistake("a recipe that is no text", ("recipe.yaml: not text in UTF-8: byte 8 is 0xff",), "save it as UTF-8",
            plant=bytes_in("recipe.yaml", b"method: \xff\xfe\n")),
)  # fmt: skip

PARAMETERS = (
    slip("a misspelt method", {"method": "tise"}, "there is no method 'tise'", remedy="did you mean 'ties'?"),
    slip("a method without its base", {"method": "ties", "base": None}, "method ties needs a base model",
         remedy="add `base:`"),
    slip("a misspelt parameter", {"method": "ties", "parameters": {"densty": 0.5}},
         "parameters: ties has no parameter 'densty'", remedy="did you mean 'density'?"),
    slip("a parameter of another method", {"parameters": {"lambda": 0.5}},
         "linear has no parameter 'lambda'", remedy="its parameters: weight, normalize"),
    slip("a parameter out of bounds", {"method": "ties", "parameters": {"density": 20}},
         "method ties: density is 20; it should be at most 1", remedy="see `weft methods ties`"),
    slip("one model's parameter out of bounds", {"method": "ties", "parameters": {"density": {"a": -1, "b": 0.5}}},
         "density of model 'a' is -1; it should be", remedy="see `weft methods ties`"),
    slip("words for a number", {"parameters": {"weight": "half"}}, "weight is 'half'; it should be a number",
         remedy="see `weft methods linear`"),
    slip("yes for a number", {"parameters": {"weight": True}}, "weight is True", "not true or false",
         remedy="see `weft methods linear`"),
    slip("a weight that is none", "method: linear\nmodels: [a, b]\nparameters: {weight: .nan}\n",
         "weight is nan; it should be a finite number", remedy="see `weft methods linear`"),
    slip("weights for three of two models", {"parameters": {"weight": [1, 2, 3]}},
         "weight: 3 value(s) for 2 model(s)", remedy="one for each model"),
    slip("a weight for a model that is not there", {"parameters": {"weight": {"A": 1, "b": 2}}},
         "weight: no model is called 'A'", remedy="the models are a, b"),
    slip("weights that cancel", {"parameters": {"weight": {"a": 1, "b": -1}}}, "the weights sum to 0",
         remedy="set normalize: false for a plain sum"),
    slip("a common parameter beside a path",
         {"method": "ties", "models": ["a", {"path": "b", "scale": 2}]},
         "model 'b': scale is one value for all models", remedy="write it under `parameters`"),
    slip("a misspelt parameter beside a path", {"models": ["a", {"path": "b", "wieght": 2}]},
         "model 'b': linear has no parameter 'wieght'", remedy="did you mean 'weight'?"),
    slip("an election that does not exist", {"method": "ties", "parameters": {"elect": "masss"}},
         "elect is 'masss'; it should be one of mass, frequency", remedy="see `weft methods ties`"),
    slip("a format that does not exist", {"output": {"dtype": "bf16"}}, "output dtype 'bf16' is not known",
         remedy="did you mean 'bfloat16'?"),
    slip("a format that holds no fractions", {"output": {"dtype": "int8"}},
         "output dtype 'int8' is not a floating-point format", remedy="use one of float64, float32, float16, bfloat16"),
    slip("a size without sense", {"output": {"shard_size": "big"}}, "output shard_size 'big' is not a size",
         remedy="write for example 500MB, 5GB or 2GiB"),
    slip("files of no size", {"output": {"shard_size": 0}}, "output shard_size", remedy="should be more than 0"),
)  # fmt: skip

RULES = (
    rule("a broken pattern", {"match": "re:layers.(", "method": "linear"}, "'re:layers.(' is not a regular expression",
         "at position 7", remedy="mend the expression"),
    rule("a rule that copies and merges", {"match": "*", "use": "a", "method": "linear"},
         "rules 1 `use` copies a tensor, so `method` and `parameters` beside it would have no effect",
         remedy="keep either `use` or the others"),
    rule("a rule that says nothing", {"match": "*head*"}, "rules 1 says nothing about its tensors",
         remedy="give `use`, `method` or `parameters`"),
    rule("a rule without a pattern", {"use": "a"}, "error: recipe.yaml: rules 1 match is missing\n",
         remedy="give a pattern over tensor names, such as `match: '*norm*'`"),
    rule("a rule with no pattern in its list", {"match": [], "use": "a"}, "rules 1 match is empty",
         remedy="give a pattern over tensor names, such as `match: '*norm*'`"),
    rule("a misspelt key in a rule", {"macth": "*", "use": "a"}, "unknown key 'macth' in rules 1",
         remedy="did you mean 'match'?"),
    rule("a rule for a model that is not there", {"match": "*head*", "use": "c"},
         "rule '*head*': use: 'c' is not a model of this recipe", remedy="write one of a, b, base, or drop"),
    slip("a rule for a base that is not there", {"base": None, "rules": [{"match": "head", "use": "base"}]},
         "rule 'head': use: 'base' is not a model of this recipe", remedy="write one of a, b, or drop"),
    rule("a rule with a misspelt method", {"match": "*", "method": "linaer"}, "there is no method 'linaer'",
         remedy="did you mean 'linear'?"),
    rule("a rule with a parameter of another method", {"match": "head", "parameters": {"density": 0.5}},
         "rule 'head': linear has no parameter 'density'", remedy="its parameters: weight, normalize"),
    rule("rules that drop everything", {"match": "*", "use": "drop"}, "the rules drop every tensor",
         remedy="keep at least one"),
    slip("a rename that finds nothing", {"rename": {"backbone.": "model."}},
         "rename: 'backbone.' is in no tensor name", "model 'a'", "model 'b'", remedy="names: "),
    slip("a rename that makes two of one name", {"models": [{"path": "a", "rename": {"layers.0": "layers.1"}}, "b"]},
         "gives 'layers.", "the same name 'layers.1.weight'", remedy="look for more of the name, so that only the "),
    slip("a rename that is broken", {"rename": {"re:(": "x"}},
         "error: recipe.yaml: rename 're:(' -> 'x': missing ), unterminated subpattern at position 0\n",
         remedy="mend the expression"),
    slip("a model's rename that is broken", {"models": ["a", {"path": "b", "rename": {"re:(": "x"}}]},
         "error: recipe.yaml: models 2 rename 're:(' -> 'x': missing )", remedy="mend the expression"),
    slip("a rename that refers to nothing", {"rename": {"re:layers": "\\2"}}, "recipe.yaml: rename 're:layers' -> ",
         "invalid group reference", remedy="mend the expression"),
)  # fmt: skip

COMMANDS = (
    typed("no recipe and no method", "merge a b -o out", "give one recipe that ends in .yaml, or models and a method",
          remedy="weft merge -m linear MODEL MODEL -o OUT"),
    typed("two recipes", "merge recipe.yaml again.yaml -o out", "give one recipe", remedy="weft merge -m linear",
          plant=bytes_in("again.yaml", written({}).encode())),
    typed("a misspelt recipe", "merge recpie.yaml -o out", "recpie.yaml: No such file or directory",
          remedy="did you mean 'recipe.yaml'?"),
    typed("a recipe that is not there", "merge runs/tuesday.yaml -o out", "tuesday.yaml: No such file or directory",
          remedy="check the path"),
    typed("a folder for a recipe", "merge own.yaml -o out", "own.yaml: Is a directory",
          remedy="name the recipe's file in it", plant=lambda place: (place / "own.yaml").mkdir()),
    typed("a recipe and a method", "merge recipe.yaml -m ties -o out", "-m does not go with a recipe (recipe.yaml)",
          remedy="write the method into the recipe"),
    typed("a recipe and a base", "merge recipe.yaml -b base -o out", "-b does not go with a recipe",
          remedy="write it into the recipe"),
    typed("a recipe and a parameter", "merge recipe.yaml -p weight=2 -o out", "-p does not go with a recipe",
          remedy="write it into the recipe"),
    typed("no output", "merge recipe.yaml", "no output is named", remedy="add -o OUT, or --dry-run"),
    typed("a parameter without a value", "merge -m linear a b -o out -p weight", "-p weight: not of the form",
          remedy="-p density=0.2"),
    typed("a parameter given twice", "merge -m linear a b -o out -p weight=1 -p weight=2", "-p weight=2: given twice",
          remedy="-p density=0.2"),
    typed("a parameter that is no YAML", "merge -m linear a b -o out -p weight={a:", "-p weight={a:",
          remedy="quote it: -p 'weight={a: 0.5}'"),
    typed("memory without sense", "merge recipe.yaml -o out --memory lots", "memory: 'lots' is not a size",
          remedy="write for example 500MB"),
    typed("memory without a unit", "merge recipe.yaml -o out --memory 512", "a memory of 512 bytes is too small",
          remedy="did you mean 512MB?"),
    typed("too little memory", "merge recipe.yaml -o out --memory 200KB --workers 4",
          "a memory of 0.2 MB is too small: 4 workers need", remedy="allow more, or fewer workers"),
    typed("fewer workers than none", "merge recipe.yaml -o out --workers -2", "Invalid value for '--workers'",
          remedy="greater than or equal to 0"),
    typed("an option that does not exist", "merge recipe.yaml -o out --overwite", "No such option: --overwite",
          remedy="--overwrite"),
    typed("a method that does not exist", "methods fischer", "there is no method 'fischer'",
          remedy="did you mean 'fisher'?"),
)  # fmt: skip

ALL: tuple[Mistake, ...] = (*KEYS, *TEXTS, *PARAMETERS, *RULES, *COMMANDS)
