"""Who calls, and what that allows: certificates, tokens, and the check before every call."""
