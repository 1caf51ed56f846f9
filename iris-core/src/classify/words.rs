//! Words that tell how hard a question is.
//!
//! They stand as [`Folded`] makes them, in small letters and without accents and apostrophes; a star
//! ends the beginning of a word.

/// A text, made ready to look for words in it.
#[derive(Debug)]
pub(super) struct Folded {
    text: String,
    /// Where the text begins behind what is said out of courtesy.
    start: usize,
    count: usize,
}

impl Folded {
    pub(super) fn new(text: &str) -> Self {
        let mut folded = String::with_capacity(text.len() + 2);
        folded.push(' ');
        for c in text.chars() {
            match fold(c) {
                Some(letter) => folded.extend(letter.to_lowercase()),
                None if matches!(c, '\'' | '’') => {}
                None if matches!(c, '+' | '#') && !folded.ends_with(' ') => folded.push(c),
                None if folded.ends_with(' ') => {}
                None => folded.push(' '),
            }
        }
        if !folded.ends_with(' ') {
            folded.push(' ');
        }
        let mut start = 0;
        while let Some(length) = phrases(COURTESY).find_map(|p| p.length_at(&folded[start..])) {
            start += length;
        }
        let count = folded[start..].split_ascii_whitespace().count();
        Self { text: folded, start, count }
    }

    /// Returns how many words there are.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Returns whether the text begins with one of the phrases of `list`.
    pub(super) fn opens(&self, list: &str) -> bool {
        phrases(list).any(|phrase| phrase.length_at(&self.text[self.start..]).is_some())
    }

    /// Returns whether one of the phrases of `list` stands in the text.
    pub(super) fn has(&self, list: &str) -> bool {
        let text = &self.text[self.start..];
        let stands = |phrase: Phrase<'_>| {
            let mut found = text.match_indices(phrase.text);
            found.any(|(at, _)| at > 0 && phrase.length_at(&text[at - 1..]).is_some())
        };
        phrases(list).any(stands)
    }
}

/// Words to look for, and whether the last of them may go on.
#[derive(Clone, Copy)]
struct Phrase<'a> {
    text: &'a str,
    is_open: bool,
}

impl Phrase<'_> {
    /// Returns how long the phrase is with the space before it, where `text` begins with it.
    fn length_at(self, text: &str) -> Option<usize> {
        let rest = text.strip_prefix(' ')?.strip_prefix(self.text)?;
        (self.is_open || rest.starts_with(' ')).then_some(1 + self.text.len())
    }
}

fn phrases(list: &str) -> impl Iterator<Item = Phrase<'_>> {
    list.split(", ").map(|phrase| match phrase.strip_suffix('*') {
        Some(text) => Phrase { text, is_open: true },
        None => Phrase { text: phrase, is_open: false },
    })
}

/// Returns a letter without its accent, or a digit; `None` for all else.
fn fold(c: char) -> Option<char> {
    Some(match c {
        'á' | 'à' | 'Á' | 'À' => 'a',
        'é' | 'è' | 'É' | 'È' => 'e',
        'í' | 'Í' => 'i',
        'ó' | 'Ó' => 'o',
        'ú' | 'ü' | 'Ú' | 'Ü' => 'u',
        'ñ' | 'Ñ' => 'n',
        c if c.is_alphanumeric() => c,
        _ => return None,
    })
}

/// What says nothing about the question behind it.
const COURTESY: &str = "\
    please, can you, could you, would you, kindly, tell me, i want you to, i need you to, \
    por favor, puedes, podrias, me puedes, me podrias, necesito que, quiero que";

/// How short questions for a fact begin.
pub(super) const FACTS: &str = "\
    what is, whats, what are, what was, what were, what does, what do, what did, what year, \
    what time, what day, what colo*, what the, who, whos, whose, when, whens, where, wheres, \
    which, how many, how much, how old, how far, how long, how tall, how high, how big, \
    is, are, was, were, do, does, did, can, \
    has, have, will, define, convert, spell, name, capital, meaning of, synonym*, antonym*, \
    correct the, fix the spelling, fix the grammar, list, the, in what, in which, que es, \
    que son, que fue, que era, que significa*, que quiere decir, que hora, que dia, \
    que color, que ano, que idioma, quien, quienes, cual es, cual era, cual fue, cuales son, \
    cuando, donde, cuanto, cuanta, cuantos, cuantas, en que ano, en que pais, en que ciudad, \
    de que, a que, es, son, fue, existe, hay, \
    tiene, tienen, puede, puedo, gano, se escribe, se dice, dime, define, convierte, capital, \
    significado, sinonimo*, antonimo*, corrige la, deletrea, nombra";

/// How one asks how something is said or written.
pub(super) const SAYING: &str = "\
    how do you say, how do you spell, how do i spell, how do you pronounce, say, como se dice, \
    como se escribe, como se llama, como se pronuncia";

/// How requests for a translation begin.
pub(super) const TRANSLATE: &str = "\
    translate, traduce, traduceme, traducir, traduzca";

/// How short greetings and thanks begin.
pub(super) const GREETINGS: &str = "\
    hi, hello, hey, good morning, good afternoon, good evening, thanks, thank you, bye, ok, \
    hola, buenas, buenos dias, gracias, muchas gracias, adios, hasta luego, vale";

/// What asks for a few words only.
pub(super) const BRIEF: &str = "\
    yes or no, one word, in one sentence, true or false, si o no, una palabra, en una frase, \
    verdadero o falso";

/// How requests begin that take more than a fact.
pub(super) const WORK: &str = "\
    summar*, compare, contrast, explain*, analy*, describe, discuss, evaluate, assess, \
    review, critique, outline, write, draft, compose, rewrite, rephrase, paraphrase, improve, \
    plan, suggest, recommend, brainstorm, prepare, help me, why, how does, how do, how did, \
    how can, how could, how would, how should, how to, should, would, interpret, classify, \
    extract, give me, make a, make me, create a, come up with, what would, what can, \
    what should, what if, in what way*, i have, i need, i want, im, resum*, compara*, \
    explica*, analiza*, analice*, describ*, discut*, comenta, evalua*, valora, critica, \
    redacta*, escrib*, reescrib*, mejora*, parafrasea*, planifica, organiza*, sugier*, \
    recomienda*, prepara*, ayudame, por que, como, deberia*, debo, interpreta*, clasifica*, \
    extrae, saca, dame, hazme, haz, inventa*, imagina*, cuenta*, crea, propon*, que pasaria, \
    que puedo, que podemos, que debo, necesito, quiero, tengo, recomiendame, en que se, \
    elabora";

/// What weighs one thing against another, or looks for causes and consequences.
pub(super) const WEIGHING: &str = "\
    pros and cons, advantage*, disadvantage*, difference between, differences between, \
    compare*, why, impact, influence, consequence*, causes, argument*, relationship between, \
    would happen, role of, similarit*, in terms of, should i, pros y, contras, ventaja*, \
    desventaja*, diferencia*, compara*, por que, impacto, influ*, consecuencia*, causas, \
    argumento*, relacion, pasaria, conviene, se parecen, papel de*, punto de vista";

/// What is written at some length.
pub(super) const TEXTS: &str = "\
    essay*, email*, e mail, letter*, story*, poem*, speech*, article*, blog*, report*, \
    paragraph*, summary*, presentation*, dialogue*, itinerary*, review*, \
    product description*, ensayo*, correo, carta, cuento, historia, poema*, discurso*, \
    articulo*, informe*, parrafo*, resumen*, presentacion*, dialogo*, itinerario*, resena*, \
    descripcion*, publicacion, charla";

/// Asks for something to be made or mended.
pub(super) const MAKE: &str = "\
    write, implement*, create, build, develop, code, program, design, make, generate, \
    refactor*, optimi*, fix, debug*, convert, port, translate, rewrite, give me, add, \
    simulate, train, set up, configure, deploy, solve, compute, calculate, find, escrib*, \
    implementa*, crea, crear, construye, desarrolla*, programa, disena*, haz, hazme, genera, \
    refactoriza*, optimiza*, arregla*, depura*, convierte, pasa, traduce, dame, anade, \
    simula, entrena*, configura*, despliega, resuelve, calcula, encuentra, halla";

/// What programmers make.
pub(super) const SOFTWARE: &str = "\
    python, javascript, typescript, rust, java, kotlin, golang, c++, c#, in c, en c, in go, \
    en go, php, ruby, swift, bash, shell, sql, html, css, react*, api, apis, rest, regex*, \
    docker*, kubernetes, terraform, yaml, json, csv, github, pytorch, tensorflow, pandas, \
    numpy, algorit*, script*, backend, frontend, pipeline, cache, software, function*, \
    program that, unit test*, database*, web page*, website, web app*, command line, \
    regular expression*, compiler, class, method, data structure*, rate limiter, \
    neural network*, library, funcion, funciones, programa que, programa en, \
    pruebas unitarias, base de datos, pagina web, aplicacion*, expresion regular, \
    expresiones regulares, clase, metodo, estructura de datos, red neuronal, consulta sql, \
    bucle, arquitectura de un sistema, codigo";

/// What goes wrong with programs.
pub(super) const FAULTS: &str = "\
    segfault*, traceback, exception, stack trace, deadlock*, race condition, debug*, \
    compile*, memory leak*, borrow checker, exit code, exits with code, refactor*, depur*, \
    excepcion, compila, fuga de memoria, condicion de carrera, codigo de salida";

/// What asks for a proof.
pub(super) const PROOFS: &str = "\
    prove, proof*, disprove, induction, theorem*, lemma, show that, derive, derivation, \
    demuestra*, demostra*, demuestre*, prueba que, prueba por, induccion, teorema*, deduce, \
    deriva, lema de";

/// What calculations are about.
pub(super) const MATHEMATICS: &str = "\
    integral*, derivative*, equation*, matrix, matrices, eigenv*, determinant, probability, \
    variance, limit of, polynomial*, complexity, solve for, system of, differential, \
    derivada*, ecuacion*, matriz, autovalor*, determinante, probabilidad, varianza, \
    limite de, polinomio*, complejidad, sistema de ecuaciones, diferencial";

/// What asks to think in several steps.
pub(super) const REASONING: &str = "\
    step by step, show your, every step, reason carefully, fastest schedule, logic puzzle, \
    paso a paso, cada paso, razona*, muestra el, justifica, plan mas, acertijo";

/// Signs of which programs have several.
#[rustfmt::skip]
pub(super) const CODE: &[&str] = &[
    "();", "()", " = ", "==", "=>", "->", "++", "{ ", " }", ");", "[i]", "def ", "fn ", "return ",
    "let ", "const ", "class ", "import ", "#include", "SELECT ", " FROM ", " WHERE ", " JOIN ",
    "for (", "for i in", "if (", "print(", "println", "+=", "<=", "&&", "||", "this.", "self.",
    " in range(", "</",
];
