use serde_json::{Value, json};

use super::*;

fn compile(source: &str, scope: &Scope<'_>) -> Result<Expression, String> {
    Expression::compile(source, scope, &Type::Bool)
}

/// What a condition comes to with nothing but `self`.
fn holds(source: &str, object: &Value) -> Result<bool, Failure> {
    within(&Budget::default(), source, object)
}

fn within(budget: &Budget, source: &str, object: &Value) -> Result<bool, Failure> {
    let expression =
        compile(source, &[("self", Type::Dyn)]).unwrap_or_else(|why| panic!("{source}: {why}"));
    let mut evaluation = Evaluation::new(budget);
    evaluation.bind("self", of_json(object));
    evaluation.holds(&expression)
}

#[test]
fn the_library_does_what_kubernetes_does() {
    for source in [
        "'abc'.startsWith('a') && 'abc'.endsWith('c') && 'abc'.contains('b')",
        "'abc'.matches('^a.c$') && !'abc'.matches('^b') && matches('abc', 'b')",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
        "'abc'.split('') == ['a', 'b', 'c'] && 'abc'.split('', 2) == ['a', 'bc'] && 'a'.split('a', 0) == []",
        "'Ab'.lowerAscii() == 'ab' && 'Ab'.upperAscii() == 'AB' && ' a '.trim() == 'a'",
        "'aXbX'.replace('X', '-') == 'a-b-' && 'aXbX'.replace('X', '-', 1) == 'a-bX'",
        "['a', 'b'].join('-') == 'a-b' && ['a', 'b'].join() == 'ab'",
        "'hello'.substring(1, 3) == 'el' && 'hello'.substring(3) == 'lo' && 'hello'.charAt(1) == 'e'",
        "'héllo'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'hello'.indexOf('z') == -1",
        "'hello'.indexOf('l', 3) == 3 && 'hello'.lastIndexOf('l', 2) == 2 && 'hello'.lastIndexOf('') == 5",
        "'%s is %d'.format(['a', 3]) == 'a is 3' && strings.quote('a') == '\"a\"'",
        "'a1b22'.find('[0-9]+') == '1' && 'a1b22'.findAll('[0-9]+') == ['1', '22'] && 'a1b2'.findAll('[0-9]', 1) == ['1']",
        "[1, 2, 2].isSorted() && ![2, 1].isSorted() && [1, 2].sum() == 3 && [1.5, 2.0].sum() == 3.5 && [].sum() == 0",
        "[3, 1, 2].min() == 1 && [3, 1, 2].max() == 3 && [1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2",
        "[duration('1s'), duration('1m')].max() == duration('60s')",
        "[1, 2].all(x, x > 0) && [1, 2].exists(x, x == 2) && [1, 2].exists_one(x, x == 2) && [1, 2].existsOne(x, x == 1)",
        "[1, 2].map(x, x * 2) == [2, 4] && [1, 2].filter(x, x > 1) == [2] && [1, 2].map(x, x > 1, x * 2) == [4]",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 2], [2, 1]) && !sets.intersects([1], [2])",
        "size('añb') == 3 && [1].size() == 1 && {'a': 1}.size() == 1 && size({}) == 0",
        "url('https://u@h.example:8443/p%20q?a=1&a=2&b=x+y').getHost() == 'h.example:8443'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('https://[::1]:80/').getPort() == '80'",
        "url('https://h/p%20q?a=1&a=2').getEscapedPath() == '/p%20q' && url('https://h/?a=1&a=2').getQuery()['a'] == ['1', '2']",
        "isURL('https://example.com') && isURL('/a/b') && !isURL('../a') && !isURL('https://a b') && url('HTTP://h').getScheme() == 'http'",
        "ip('10.0.0.1').family() == 4 && ip('::1').isLoopback() && isIP('::1') && !isIP('::ffff:1.2.3.4') && !isIP('1.2.3')",
        "ip.isCanonical('::1') && !ip.isCanonical('0::1') && string(ip('0::1')) == '::1' && ip('10.1.1.1').isGlobalUnicast()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsIP(ip('10.1.2.3'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.1.0.0/16').containsCIDR(cidr('10.0.0.0/8'))",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.1.2.3/8').ip() == ip('10.1.2.3')",
        "cidr('::/0').prefixLength() == 0 && cidr('::/0').containsIP('fe80::1') && isCIDR('1.2.3.4/32') && !isCIDR('1.2.3.4/33')",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').add(quantity('1')) == quantity('1500m')",
        "quantity('1k').asInteger() == 1000 && !quantity('1500m').isInteger() && quantity('-1').sign() == -1",
        "quantity('2').sub(1).compareTo(quantity('1')) == 0 && isQuantity('1Ki') && !isQuantity('1 Ki')",
        "timestamp('2000-01-01T00:00:00Z').getFullYear() == 2000 && duration('1h').getMinutes() == 60",
        "timestamp('2000-01-02T00:00:00Z') - timestamp('2000-01-01T00:00:00Z') == duration('24h')",
        "self.?nothing.orValue(3) == 3 && self.?a.hasValue() && self.?a.value() == 1 && self.?b.?c.orValue('x') == 'y'",
        "optional.of(1).orValue(2) == 1 && optional.none().orValue(2) == 2 && self[?'a'].orValue(0) == 1",
        "has(self.a) && !has(self.z) && 'a' in self && 1 in [1] && self['a'] == 1 && self.b.c == 'y'",
        "type(self.a) == int && type('') == string && int('3') == 3 && double(3) == 3.0 && string(3) == '3'",
        "true || self.z == 1 || 1 / 0 == 1",
        "self.l.all(x, x.n != '' && self.l.exists_one(y, y.n == x.n))",
        "b'ab'.size() == 2 && bytes('ab') == b'ab' && 5 % 3 == 2 && 7 / 2 == 3 && -(-1) == 1",
        "(self.a == 1 ? 'x' : 'y') == 'x' && {'k': 1}['k'] == 1 && {'k': 1}.k == 1",
    ] {
        let object = json!({"a": 1, "b": {"c": "y"}, "l": [{"n": "p"}, {"n": "q"}]});
        assert_eq!(holds(source, &object), Ok(true), "{source}");
    }
}

#[test]
fn what_fails_says_why() {
    for (source, why) in [
        ("self.z == 1", "no such key: z"),
        ("1 / self.zero == 1", "division by zero"),
        ("[1][self.a] == 1", "index out of bounds"),
        ("9223372036854775807 + self.a > 0", "integer overflow"),
        ("ip(self.text).family() == 4", "parse error"),
        ("self.text.matches(self.pattern)", "error parsing regexp"),
        ("[].min() == self.a", "min called on empty list"),
        ("self.text", "unexpected result of type string"),
    ] {
        let object = json!({"a": 1, "zero": 0, "text": "x", "pattern": "("});
        match holds(source, &object) {
            Err(Failure::Error(said)) => assert!(said.contains(why), "{source}: {said}"),
            other => panic!("{source}: {other:?}"),
        }
    }
}

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "n": {"type": "integer"}, "d": {"type": "number"}, "s": {"type": "string"}, "flag": {"type": "boolean"},
        "at": {"type": "string", "format": "date-time"}, "day": {"type": "string", "format": "date"},
        "took": {"type": "string", "format": "duration"}, "raw": {"type": "string", "format": "byte"},
        "either": {"x-kubernetes-int-or-string": true},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "any": {"x-kubernetes-preserve-unknown-fields": true},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "a-b": {"type": "integer"}, "a.b": {"type": "integer"}, "a/b": {"type": "integer"}, "a__b": {"type": "integer"},
        "namespace": {"type": "string"}, "ü": {"type": "string"},
    }})
}

#[test]
fn expressions_are_refused_for_what_is_not_there() {
    let schema = schema();
    let kind = Type::of(&schema, true).unwrap();
    for (source, why) in [
        ("self.nothing == 1", "undefined field 'nothing'"),
        ("has(self.nothing)", "undefined field 'nothing'"),
        ("self.?nothing.hasValue()", "undefined field 'nothing'"),
        (
            "self.list.all(x, x.nothing == 1)",
            "undefined field 'nothing'",
        ),
        ("self.any == 1", "undefined field 'any'"),
        ("self.free.x == 1", "undefined field 'x'"),
        ("self.ü == ''", "unexpected character"),
        ("other == 1", "undeclared reference to 'other'"),
        (
            "self.n.startsWith('a')",
            "no matching overload for 'startsWith' applied to 'int.(string)'",
        ),
        ("self.s.startsWith()", "no matching overload"),
        ("self.s.nonsense()", "undeclared reference to 'nonsense'"),
        ("nonsense(self.s)", "undeclared reference to 'nonsense'"),
        ("math.greatest(1, 2) == 2", "undeclared reference"),
        (
            "self.n == 'a'",
            "no matching overload for '_==_' applied to '(int, string)'",
        ),
        ("self.n == self.d", "no matching overload"),
        ("self.n + self.d > 1.0", "no matching overload"),
        ("self.n", "must evaluate to a bool"),
        ("self.n && true", "no matching overload"),
        ("self.n.all(x, true)", "cannot be range of a comprehension"),
        ("self.list.all(i, x, true)", "undeclared reference to 'all'"),
        (
            "self.list.transformList(i, x, true)",
            "undeclared reference to 'transformList'",
        ),
        ("self.s.matches('(')", "error parsing regexp"),
        (
            "self.list[0].name.foo == ''",
            "does not support field selection",
        ),
        ("a.b.C{x: 1} == 2", "undeclared reference to 'a.b.C'"),
        ("self.", "ERROR"),
        ("", "ERROR"),
    ] {
        let refused = compile(source, &[("self", kind.clone())]).err();
        let said = refused.unwrap_or_else(|| panic!("{source} is taken"));
        assert!(said.contains(why), "{source}: {said}");
    }
}

#[test]
fn values_have_the_types_of_their_schema() {
    let schema = schema();
    let kind = Type::of(&schema, true).unwrap();
    let object = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "x", "labels": {"a": "b"}},
        "n": 1.0, "d": 1, "s": "x", "flag": true, "at": "2000-01-01T00:00:00Z", "day": "2000-01-01", "took": "1h30m0.5s",
        "raw": "YWI=", "either": 3, "free": {"x": 1}, "any": 1, "labels": {"a-b": "c"}, "list": [{"name": "p"}],
        "a-b": 1, "a.b": 2, "a/b": 3, "a__b": 4, "namespace": "y"});
    for source in [
        "self.n == 1 && type(self.n) == int && self.d == 1.0 && self.d / 2.0 == 0.5",
        "self.at == timestamp('2000-01-01T00:00:00Z') && self.day.getFullYear() == 2000 && self.at == self.day",
        "self.took == duration('5400.5s') && self.raw == b'ab'",
        "self.either == 3 && type(self.either) == int",
        "self.labels['a-b'] == 'c' && 'a-b' in self.labels && self.labels.all(k, k.startsWith('a'))",
        "self.a__dash__b == 1 && self.a__dot__b == 2 && self.a__slash__b == 3 && self.a__underscores__b == 4",
        "self.__namespace__ == 'y' && self.metadata.name == 'x' && self.kind == 'K' && !has(self.metadata.generateName)",
        "has(self.free) && self.list[0].name == 'p' && self.flag",
    ] {
        let expression = compile(source, &[("self", kind.clone())])
            .unwrap_or_else(|why| panic!("{source}: {why}"));
        let mut evaluation = Evaluation::new(&Budget::default());
        evaluation.bind("self", of_schema(&object, &schema, true));
        assert_eq!(evaluation.holds(&expression), Ok(true), "{source}");
    }
}

#[test]
fn nothing_takes_more_than_its_budget() {
    let items: Vec<Value> = (0..500).map(|one| json!(format!("item-{one}"))).collect();
    let object = json!({"l": items, "s": "x".repeat(20_000)});
    for source in [
        "self.l.all(a, self.l.all(b, self.l.all(c, a + b != c)))",
        "self.l.map(a, self.l.map(b, self.l)).size() > 0",
        "self.l.all(a, [self.l, self.l, self.l].all(b, b.size() > 0))",
        "self.l.all(a, self.l == self.l.map(x, x))",
        "self.l.all(a, a + 'x' in self.l || true)",
        "self.s.replace('', self.s).size() > 0",
        "self.l.map(x, self.s).join(self.s).size() > 0",
        "self.l.all(x, self.s.matches('x*y') || true)",
        "self.l.all(x, self.s.indexOf('xxxxxy') < 0)",
        "self.l.all(x, self.s.split('').size() > 0)",
        "self.l.all(x, size(self.s) > 0)",
        "self.l.all(x, self.s.lowerAscii().size() > 0)",
        "self.l.all(x, self.l.sum() == 0 || true)",
        "self.l.all(x, '%s%s%s'.format([self.s, self.s, self.s]).size() > 0)",
        "[self.s].map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a)\
         .map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).size() == 1",
        "[self.l].map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a)\
         .map(a, [a, a]).map(a, [a, a]).map(a, [a, a]).map(a, [a, a]).map(a, [a, a]).map(a, [a, a]).size() == 1",
    ] {
        let seen = within(&Budget::of(100_000), source, &object);
        assert_eq!(seen, Err(Failure::OutOfBudget), "{source}");
    }
    // What people write is far from it.
    assert_eq!(
        holds("self.l.all(a, a.startsWith('item'))", &object),
        Ok(true)
    );
    let few = json!({"l": (0..200).map(|one| json!({"name": format!("n{one}"), "port": one})).collect::<Vec<_>>()});
    let unique = "self.l.all(a, self.l.exists_one(b, a.name == b.name && a.port == b.port))";
    assert_eq!(holds(unique, &few), Ok(true));
}

#[test]
fn large_and_deep_expressions_are_refused() {
    let refused = [
        format!("{}1{} == []", "[".repeat(1000), "]".repeat(1000)),
        vec!["1"; 4000].join("+") + " == 1",
        format!("{}true", "true ? true : ".repeat(1000)),
        format!("self{} == 1", "[0]".repeat(3000)),
        format!("{}true{}", "[1].all(x, ".repeat(300), ")".repeat(300)),
        "'".repeat(20_000),
        format!("self{} == 1", ".a".repeat(5000)),
    ];
    // What is just small enough to be taken can be evaluated.
    let taken = [
        format!("{}true{}", "(".repeat(5000), ")".repeat(5000)),
        format!("{}true", "!".repeat(10_001)),
        vec!["1"; 120].join("+") + " == 120",
        format!("self{} == 1", ".a".repeat(120)),
        format!("self{} == 1", "[0]".repeat(120)),
        format!("{}true", "true ? true : ".repeat(40)),
        format!("{}true", "!".repeat(40)),
    ];
    let mut wrong = Vec::new();
    for (source, wanted) in refused
        .iter()
        .map(|source| (source, false))
        .chain(taken.iter().map(|source| (source, true)))
    {
        let expression = compile(source, &[("self", Type::Dyn)]);
        if expression.is_ok() != wanted {
            let start: String = source.chars().take(24).collect();
            wrong.push((start, expression.as_ref().err().cloned()));
        }
        let Ok(expression) = expression else { continue };
        let object = json!({});
        let mut evaluation = Evaluation::new(&Budget::default());
        evaluation.bind("self", of_json(&object));
        let _ = evaluation.holds(&expression);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let sum = vec!["1"; 100].join("+") + " == 100";
    assert_eq!(holds(&sum, &json!({})), Ok(true));
    let chain = vec!["self.a == 1"; 100].join(" && ");
    assert_eq!(holds(&chain, &json!({"a": 1})), Ok(true));
}

#[test]
fn a_sum_pays_before_it_is_made() {
    // Each turn would make 40 MB of a text of 1 MB.
    let object =
        json!({"text": "x".repeat(1 << 20), "list": vec![1; 50_000], "turns": vec![0; 1000]});
    for term in ["self.text", "self.list"] {
        let chain = vec![term; 40].join(" + ");
        let source = format!("self.turns.all(t, size({chain}) > 0)");
        let started = std::time::Instant::now();
        assert_eq!(holds(&source, &object), Err(Failure::OutOfBudget), "{term}");
        assert!(started.elapsed().as_secs() < 20, "{term}");
    }
    for (source, expect) in [
        ("'a' + 'b' + string(1) == 'ab1'", true),
        ("[1] + [2] + [3] == [1, 2, 3]", true),
        ("[1, 2].map(x, [x] + [x + 1]) == [[1, 2], [2, 3]]", true),
        ("1.5 + 1.0 + 2.0 == 4.5 && 1 + 2 * 3 + (4 + 5) == 16", true),
        (
            "b'a' + b'b' == b'ab' && duration('1s') + duration('2s') == duration('3s')",
            true,
        ),
        (
            "timestamp('2000-01-01T00:00:00Z') + duration('1h') == timestamp('2000-01-01T01:00:00Z')",
            true,
        ),
    ] {
        assert_eq!(holds(source, &json!({})), Ok(expect), "{source}");
    }
    assert!(matches!(
        holds("self.a + self.b == 1", &json!({"a": 1, "b": "x"})),
        Err(Failure::Error(_))
    ));
}

#[test]
fn patterns_are_about_ascii() {
    for source in [
        r"!self.digit.matches('^\\d$') && '7'.matches('^\\d$')",
        r"!self.letter.matches('^\\w$') && self.letter.matches('^\\W$')",
    ] {
        let object = json!({"digit": "\u{667}", "letter": "é"});
        assert_eq!(holds(source, &object), Ok(true), "{source}");
    }
}
