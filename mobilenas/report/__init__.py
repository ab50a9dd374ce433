"""Reports: pages, drawings, tables. Nothing here trains or searches."""
