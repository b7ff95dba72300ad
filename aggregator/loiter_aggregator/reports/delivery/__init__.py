"""The ways on which reports are delivered: folders, e-mail, webhooks."""
