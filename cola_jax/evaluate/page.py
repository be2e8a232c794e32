"""The HTML of a report: one page that needs nothing beside it. A jinja2 template, filled in by `report.write_report`."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ report.title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #111; max-width: 940px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
figure { margin: 1.5em 0; } img { max-width: 100%; } figcaption { color: #555; font-size: 0.9em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2em 0.9em 0.2em 0; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.headline td { font-size: 1.3em; } .headline td.of { font-size: 1em; color: #555; text-align: left; }
.prompt { color: #999; } .sample { margin: 0.5em 0; } .right { color: #187a2f; } .wrong { color: #b3261e; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 0.8em; }
</style>
</head>
<body>
<h1>{{ report.title }}</h1>
<table class="headline">
{% for name, value, remark in report.headline %}<tr><td>{{ name }}</td><td>{{ value }}</td><td class="of">{{ remark }}</td></tr>
{% endfor %}</table>
{% for group, samples in report.samples %}
<h2>{{ group }}</h2>
<p>The prompt in grey, what the model wrote in black. <span class="right">&#10003;</span> the answer is the one that the story
entails; <span class="wrong">&#10007;</span> it is not.</p>
{% for sample in samples %}<div class="sample">
<span class="prompt">{{ sample.prompt }}</span><span>{{ sample.continuation }}</span>
{% if sample.entailed %}<span class="right">&#10003;</span>{% else %}<span class="wrong">&#10007;{% if sample.expected %}
({{ sample.expected }}){% endif %}</span>{% endif %}</div>
{% endfor %}{% endfor %}
{% for picture in report.pictures %}
<h2>{{ picture.title }}</h2>
<figure><img alt="{{ picture.title }}" src="data:image/png;base64,{{ picture.path | base64 }}">
<figcaption>{{ picture.caption }} <a href="{{ picture.path.name }}">{{ picture.path.name }}</a></figcaption></figure>
{% endfor %}
{% for table in report.tables %}
<h2>{{ table.title }}</h2>
<table>
<tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
{% for name, text in report.configs %}
<details><summary>{{ name }}</summary><pre>{{ text }}</pre></details>
{% endfor %}
</body>
</html>
"""
