"""Reports as one page of HTML with drawings, which needs nothing from elsewhere: no script, no font, no image."""
