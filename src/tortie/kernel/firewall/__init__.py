"""What other programs' firewalls do with our traffic: read, judged, never changed."""
