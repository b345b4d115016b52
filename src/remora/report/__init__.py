"""The report of a study: tables, figures, one offline HTML file and Markdown, made from the files of a run."""
