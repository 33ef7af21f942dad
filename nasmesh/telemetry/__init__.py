"""What programs tell of themselves besides logs: metrics to be scraped, traces to be followed. Off costs nothing."""
