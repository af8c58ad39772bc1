"""JSONPath and Go templates, as kubectl's and calicoctl's users write them."""

from typing import Any

import pytest

from tortie.ctl.gotemplate import render as go
from tortie.ctl.jsonpath import render as path
from tortie.lib.errors import InvalidInput

NODES: Any = {
    "items": [
        {"metadata": {"name": "n1", "labels": {"a/b.c": "x"}}, "spec": {"n": 3, "l": [1, 2, 3]}},
        {"metadata": {"name": "n2"}, "spec": {"n": 5, "l": []}},
    ]
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.items[*].metadata.name}", "n1 n2"),
        ("{$.items[0].metadata.name}", "n1"),
        ("{.items[-1].metadata.name}", "n2"),
        ("{.items[0].spec.l[0:2]}", "1 2"),
        ("{.items[0].spec.l[::2]}", "1 3"),
        ("{..name}", "n1 n2"),
        ("{.items[0].metadata.labels['a/b.c']}", "x"),
        (r"{.items[0].metadata.labels.a/b\.c}", "x"),
        ("{.items[?(@.spec.n>3)].metadata.name}", "n2"),
        ("{.items[?(@.metadata.name=='n1')].spec.n}", "3"),
        ("{.items[?(@.metadata.labels)].metadata.name}", "n1"),
        ("{.items[?(@.metadata.name>3)].spec.n}", ""),
        ("{.nothing.here}", ""),
        ("{.items[9]}", ""),
        ('{range .items[*]}{.metadata.name}{"\\t"}{.spec.n}{"\\n"}{end}', "n1\t3\nn2\t5\n"),
        ("{range .items[*]}[{range .spec.l[*]}{@},{end}]{end}", "[1,2,3,][]"),
        ("{.items[1].spec}", '{"n":5,"l":[]}'),
        ("name: {.items[0].metadata.name}", "name: n1"),
        ("plain", "plain"),
    ],
)
def test_jsonpath(template: str, text: str) -> None:
    assert path(template, NODES) == text


@pytest.mark.parametrize(
    "template",
    ["{", "{.items[}", "{.items[0}", "{range .items}", "{end}", "{.a[?(@.b==)]}", "{'x}", "{.a b}",
     "{.items[?(@.a==1]}", "{.items[1:2:0]}", "{" * 50],
)  # fmt: skip
def test_jsonpath_mistakes(template: str) -> None:
    with pytest.raises(InvalidInput, match="jsonpath, character"):
        path(template, NODES)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{range .Items}}{{.ObjectMeta.Name}} {{end}}", "n1 n2 "),
        ("{{range .items}}{{.metadata.name}} {{end}}", "n1 n2 "),
        ("{{range $i, $x := .Items}}{{$i}}={{$x.Name}};{{end}}", "0=n1;1=n2;"),
        ("{{len .Items}}", "2"),
        ("{{(index .Items 1).Spec.N}}", "5"),
        ("{{with index .Items 0}}{{.Name}}{{end}}", "n1"),
        ('{{range .Items}}{{if eq .Name "n1"}}one{{else if gt .Spec.N 4}}big{{end}}{{end}}',
         "onebig"),
        ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
        ('{{join (index .Items 0).Spec.L ","}}', "1,2,3"),
        ('{{joinAndTruncate (index .Items 0).Spec.L "," 4}}', "1..."),
        ('{{printf "%-4s|%4d|%04d|%q|%v|%5.1f|%x|%%" "a" 7 7 "b" .Nothing 1.25 255}}',
         'a   |   7|0007|"b"|<no value>|  1.2|ff|%'),
        ("{{.Items | len | printf `%d nodes`}}", "2 nodes"),
        ("{{$n := len .Items}}{{$n}}", "2"),
        ("a {{- /* nothing */ -}} b", "ab"),
        ("{{with .Nothing}}x{{else}}y{{end}}", "y"),
        ("{{and true .Items | len}}{{or .Nothing `z`}}{{not true}}", "2zfalse"),
        ("{{.Missing}}", "<no value>"),
        ("{{(index .Items 0).Spec}}", "map[l:[1 2 3] n:3]"),
    ],
)  # fmt: skip
def test_go_template(template: str, text: str) -> None:
    assert go(template, NODES) == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{define `x`}}", "no function 'define'; -o jsonpath"),
        ("{{html .}}", "no function 'html'; -o jsonpath"),
        ("{{.Items", "without }}"),
        ("{{range .Items}}", "without"),
        ("{{end}}", "without a beginning"),
        ("{{$x}}", "undefined variable"),
        ("{{index .Items 9}}", "index: list index out of range"),
        ("{{range len .Items}}{{end}}", "range can't iterate"),
        ('{{printf "%z" 1}}', "printf has no %z"),
        ("{{.Items | .Name}}", "only a function"),
        ("{{}}", "a value is missing"),
        ("{{@}}", "not understood"),
    ],
)
def test_go_template_mistakes(template: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        go(template, NODES)


def test_output_is_bounded() -> None:
    width = "{{printf `%999s` .}}" * 10
    nested = "".join("{{range $}}" for _ in range(6)) + width + "{{end}}" * 6
    with pytest.raises(InvalidInput, match="more than"):
        go(nested, list(range(12)))
