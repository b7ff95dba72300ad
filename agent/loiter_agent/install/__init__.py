"""What `loiter-agent install` and `uninstall` want of a host, and how they tell that it works."""
