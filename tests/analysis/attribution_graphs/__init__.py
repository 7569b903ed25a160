"""Attribution graphs: sums of edges, influence, files, checks, planted truth."""
