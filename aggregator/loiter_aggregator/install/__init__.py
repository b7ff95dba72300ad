"""What `loiter service install` and `uninstall` want of a host, and how they tell that it works."""
