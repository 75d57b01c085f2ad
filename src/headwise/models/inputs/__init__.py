"""What people hand in, as models take it: text; pictures and films; sounds."""
