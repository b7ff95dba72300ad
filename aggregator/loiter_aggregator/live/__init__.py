"""The live view of `loiter top --watch`: a ranking that one can leave open, sort, filter and look into."""
