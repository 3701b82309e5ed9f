"""A screen in a browser: the server, and the process behind each page. It knows no trace and no capture, only the
command that makes a screen."""
