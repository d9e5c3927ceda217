"""The deaf server: mailboxes, gates, directory and the one port in front of them."""
