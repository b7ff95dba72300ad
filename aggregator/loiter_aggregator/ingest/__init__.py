"""Takes in reports: decode, validate, drop what came before, batch, commit, acknowledge."""
