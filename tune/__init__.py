"""How a persona is made: data, recipes, evaluation and publishing of adapters."""
