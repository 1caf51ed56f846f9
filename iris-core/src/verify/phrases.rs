//! What canary prompts are put together from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::seed::Draws;

/// Bits of chance below which a template would repeat itself too soon.
///
/// A million prompts of 2^48 hold the same one twice with a probability of 0.2 %.
const LEAST_BITS: f64 = 48.0;
const MOST_TEMPLATES: usize = 1000;
const MOST_WORDS: usize = 100_000;
const LONGEST: usize = 8192;

/// Templates of prompts, and the words that fill their gaps.
///
/// A gap is `{name}`, for a word of the list `name`, or `{low-high}`, for a number. Whoever can
/// read the templates can tell prompts that are made of them from others, and the built-in ones
/// can be read by everybody: an operator with something at stake writes templates of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct Phrases {
    templates: Vec<Vec<Piece>>,
    text: Text,
}

/// How phrases are written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    templates: Vec<String>,
    words: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Word(String),
    Number(u32, u32),
}

/// Says why templates and words make no prompts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PhrasesError {
    /// There is none, or too many.
    #[error("phrases have 1 to 1,000 templates of at most 8,192 bytes and at most 100,000 words")]
    Size,
    /// A gap has no end, names no list that has words, or is no range.
    #[error("the gap \"{0}\" must be the name of a list of words, or a range such as 10-99")]
    Gap(String),
    /// A template can be filled in too few ways.
    #[error(
        "the template \"{0}\" can be filled in too few ways; give it more gaps or longer lists"
    )]
    Narrow(String),
}

impl Phrases {
    /// Checks `templates` and the lists of `words` that fill them.
    pub fn new(
        templates: Vec<String>,
        words: BTreeMap<String, Vec<String>>,
    ) -> Result<Self, PhrasesError> {
        let count: usize = words.values().map(Vec::len).sum();
        let fits = (1..=MOST_TEMPLATES).contains(&templates.len())
            && templates.iter().chain(words.values().flatten()).all(|text| text.len() <= LONGEST);
        if !fits || count > MOST_WORDS {
            return Err(PhrasesError::Size);
        }
        let read = |template: &String| read(template, &words);
        let read = templates.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { templates: read, text: Text { templates, words } })
    }

    /// Returns a prompt.
    pub(super) fn draw(&self, draws: &mut Draws) -> String {
        let template = draws.one(&self.templates);
        let mut prompt = String::new();
        for piece in template {
            match piece {
                Piece::Text(text) => prompt += text,
                Piece::Word(list) => prompt += draws.one::<String>(&self.text.words[list]),
                Piece::Number(low, high) => {
                    let number = draws.below(u64::from(high - low) + 1) + u64::from(*low);
                    prompt += &number.to_string();
                }
            }
        }
        prompt
    }
}

impl TryFrom<Text> for Phrases {
    type Error = PhrasesError;

    fn try_from(text: Text) -> Result<Self, PhrasesError> {
        Self::new(text.templates, text.words)
    }
}

impl From<Phrases> for Text {
    fn from(phrases: Phrases) -> Self {
        phrases.text
    }
}

impl Default for Phrases {
    /// The built-in templates: letters, sums, stories, programs, recipes, journeys and advice, in
    /// English and Spanish.
    fn default() -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let words = LISTS.iter().map(|(name, words)| ((*name).to_owned(), owned(words)));
        Self::new(owned(&TEMPLATES), words.collect()).expect("a test reads the built-in phrases")
    }
}

/// Cuts a template into pieces, and makes sure that it can be filled in enough ways.
fn read(template: &str, words: &BTreeMap<String, Vec<String>>) -> Result<Vec<Piece>, PhrasesError> {
    let (mut pieces, mut rest, mut bits) = (Vec::new(), template, 0.0);
    while let Some((text, gap)) = rest.split_once('{') {
        let (gap, after) = gap.split_once('}').ok_or_else(|| PhrasesError::Gap(gap.to_owned()))?;
        let (piece, ways) = fill(gap, words).ok_or_else(|| PhrasesError::Gap(gap.to_owned()))?;
        pieces.extend([Piece::Text(text.to_owned()), piece]);
        bits += f64::from(ways).log2();
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    if bits < LEAST_BITS { Err(PhrasesError::Narrow(template.to_owned())) } else { Ok(pieces) }
}

/// Returns what fills a gap, and in how many ways.
fn fill(gap: &str, words: &BTreeMap<String, Vec<String>>) -> Option<(Piece, u32)> {
    if let Some(list) = words.get(gap) {
        let ways = u32::try_from(list.len()).ok().filter(|ways| *ways > 0)?;
        return Some((Piece::Word(gap.to_owned()), ways));
    }
    let (low, high) = gap.split_once('-')?;
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    let ways = u32::checked_sub(high, low)?.checked_add(1)?;
    Some((Piece::Number(low, high), ways))
}

const TEMPLATES: [&str; 16] = [
    "Write an e-mail to {name} {surname} from {name}: our meeting about the {thing} moves from \
     {day} at {8-18}:{10-59} to {day} at {8-18}:{10-59}, room {2-480}. Ask whether {name} can bring \
     the {thing}. Keep it friendly.",
    "A {thing} costs {120-980} euros in {city}. {name} {surname}, a {job}, can pay it in {6-36} instalments of {21-89} \
     euros, or save {15-75} euros a month and buy it later, when it costs {2-19} percent more. \
     Which is cheaper, and by how much? Show each step.",
    "Write the beginning of a story set in {city} in {1790-2040}. {name} {surname}, a {job}, finds \
     a {thing} inside a {thing}, and the {job} from number {3-199} wants it back. Third person, \
     past tense.",
    "Write a Python function that reads a CSV file of {item}s with the columns id, {item}_count, \
     price and city, drops rows with a price above {100-9900} or a count below {2-90}, and returns \
     the {3-40} dearest ones of {city} and of {city} sorted by price. Explain how to test it with \
     {101-999} rows.",
    "I have {food}, {food}, {food} and {food} at home, {2-12} guests tonight and {25-95} minutes. \
     One of them, {name}, eats no {food}. What can I cook? Give amounts, the order of the steps \
     and what to do with {40-900} g of {food} that are left.",
    "Plan {2-9} days in {city} for {name} ({19-81}), a {job} who likes {item}s and {food}, with a \
     budget of {150-2400} euros, arriving on {day} at {6-22}:{10-59}. Day by day, with one thing \
     to skip.",
    "Explain to {name}, who is {8-15} and wants to become a {job}, how a {thing} works and what it \
     has to do with a {thing}. Use an example with {12-640} {item}s, one from {city} and one with {food}, and end with \
     {2-5} questions for {name} {surname}.",
    "My neighbour {name} {surname} borrowed my {thing} on {day} {1-28}.{1-12}. and says the {job} \
     in {city} lost it. It was worth {35-1900} euros. Write a polite letter that asks for {20-100} \
     percent of that within {5-45} days.",
    "Escribe un correo para {name} {surname}: la reunión sobre {cosa} pasa del {dia} a las \
     {8-18}:{10-59} al {dia} a las {8-18}:{10-59}, en la sala {2-480}. Pregunta si {name} puede \
     traer {cosa}. Que suene amable.",
    "{name} {surname}, de oficio {oficio}, quiere comprar {cosa} en {city} por {120-980} euros. Puede pagarlo en {6-36} cuotas de \
     {21-89} euros o ahorrar {15-75} euros al mes y comprarlo más tarde, cuando cueste un {2-19} % \
     más. ¿Qué le sale más barato y por cuánto? Muestra cada paso.",
    "Escribe el comienzo de un cuento en {city}, año {1790-2040}. {name} {surname}, de profesión \
     {oficio}, encuentra {cosa} junto a {cosa}, y alguien de la casa {3-199} se lo reclama junto con {20-900} euros. En \
     tercera persona y en pasado.",
    "Tengo en casa {comida}, {comida}, {comida} y {comida}, {2-12} invitados y {25-95} minutos. \
     {name} no come {comida}. ¿Qué puedo cocinar? Da cantidades, el orden de los pasos y qué hacer \
     con {40-900} g de {comida} que sobran.",
    "Prepara un viaje de {2-9} días a {city} para {name}, de {19-81} años y de profesión {oficio}, \
     con {150-2400} euros; le gusta {comida} y {comida}. Llega el {dia} a las {6-22}:{10-59}. Día \
     por día, y di qué no merece la pena.",
    "Explica a {name}, que tiene {8-15} años y quiere dedicarse al oficio de {oficio}, para qué \
     sirve {cosa} y en qué se parece a {cosa}. Pon un ejemplo con {12-640} piezas y otro de \
     {city}, y termina con {2-5} preguntas para {name} {surname}.",
    "Mi vecina {name} {surname} se llevó {cosa} el {dia} {1-28}/{1-12} y dice que lo perdió en \
     {city}. Valía {35-1900} euros. Escribe una carta educada en la que pida el {20-100} % en \
     {5-45} días.",
    "Escribe en JavaScript una función que reciba pedidos con id, cantidad, precio y ciudad, quite \
     los de precio mayor que {100-9900} o cantidad menor que {2-90}, y devuelva los {3-40} más \
     caros de {city} y de {city}. Añade una prueba con {101-999} pedidos de {comida} y {comida}.",
];

const LISTS: [(&str, &[&str]); 12] = [
    (
        "name",
        &[
            "Ana", "Bruno", "Carla", "Daniel", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas",
            "Karen", "Lucas", "Marta", "Nadia", "Oscar", "Paula", "Quentin", "Rosa", "Samuel",
            "Teresa", "Ursula", "Victor", "Wanda", "Xavier", "Yolanda", "Zoe", "Adrian", "Beatriz",
            "Clara", "Diego", "Emma", "Ivan",
        ],
    ),
    (
        "surname",
        &[
            "Alonso", "Becker", "Castro", "Dupont", "Ericsson", "Fischer", "Garcia", "Hughes",
            "Ibarra", "Jensen", "Keller", "Lopez", "Moreau", "Navarro", "Olsen", "Perez", "Quinn",
            "Romero", "Santos", "Taylor", "Urban", "Vidal", "Weber", "Ximenez", "Young", "Zapata",
            "Novak", "Marino", "Blanco", "Costa", "Duarte", "Evans",
        ],
    ),
    (
        "city",
        &[
            "Valencia", "Lyon", "Porto", "Leeds", "Bremen", "Turin", "Ghent", "Bilbao", "Cork",
            "Graz", "Malmö", "Bergen", "Sevilla", "Nantes", "Lodz", "Split", "Quito", "Rosario",
            "Puebla", "Boston", "Denver", "Osaka", "Perth", "Tunis", "Murcia", "Vigo", "Toledo",
            "Basel", "Riga", "Krakow", "Lima", "Oaxaca",
        ],
    ),
    ("day", &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]),
    ("dia", &["lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"]),
    (
        "thing",
        &[
            "bicycle",
            "camera",
            "violin",
            "kettle",
            "ladder",
            "compass",
            "printer",
            "telescope",
            "suitcase",
            "lantern",
            "microscope",
            "radio",
            "drill",
            "tent",
            "clock",
            "mirror",
            "canoe",
            "piano",
            "heater",
            "drone",
            "typewriter",
            "wardrobe",
            "fridge",
            "globe",
            "guitar",
            "sewing machine",
            "lawn mower",
            "turntable",
            "barometer",
            "toaster",
            "map",
            "safe",
        ],
    ),
    (
        "cosa",
        &[
            "una bicicleta",
            "una cámara",
            "un violín",
            "una escalera",
            "una brújula",
            "una impresora",
            "un telescopio",
            "una maleta",
            "un farol",
            "un microscopio",
            "una radio",
            "un taladro",
            "una tienda de campaña",
            "un reloj",
            "un espejo",
            "una canoa",
            "un piano",
            "una estufa",
            "un dron",
            "un armario",
            "una nevera",
            "un globo terráqueo",
            "una guitarra",
            "una máquina de coser",
            "un cortacésped",
            "un tocadiscos",
            "un barómetro",
            "una tostadora",
            "un mapa",
            "una caja fuerte",
            "un horno",
            "una mesa",
        ],
    ),
    (
        "item",
        &[
            "book", "stamp", "coin", "ticket", "plant", "tool", "seed", "poster", "brick", "tile",
            "bottle", "jacket", "lamp", "wheel", "shell", "puzzle",
        ],
    ),
    (
        "job",
        &[
            "baker",
            "pilot",
            "nurse",
            "judge",
            "sailor",
            "tailor",
            "plumber",
            "librarian",
            "gardener",
            "welder",
            "pharmacist",
            "beekeeper",
            "surveyor",
            "conductor",
            "locksmith",
            "florist",
        ],
    ),
    (
        "oficio",
        &[
            "panadero",
            "piloto",
            "juez",
            "marinero",
            "sastre",
            "fontanero",
            "bibliotecario",
            "jardinero",
            "soldador",
            "farmacéutico",
            "apicultor",
            "topógrafo",
            "cerrajero",
            "florista",
            "carpintero",
            "electricista",
        ],
    ),
    (
        "food",
        &[
            "lentils",
            "leeks",
            "salmon",
            "rice",
            "eggs",
            "spinach",
            "mushrooms",
            "chickpeas",
            "potatoes",
            "walnuts",
            "feta",
            "pumpkin",
            "tofu",
            "noodles",
            "carrots",
            "apples",
        ],
    ),
    (
        "comida",
        &[
            "lentejas",
            "puerros",
            "salmón",
            "arroz",
            "huevos",
            "espinacas",
            "champiñones",
            "garbanzos",
            "patatas",
            "nueces",
            "queso",
            "calabaza",
            "tofu",
            "fideos",
            "zanahorias",
            "manzanas",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn phrases(template: &str) -> Result<Phrases, PhrasesError> {
        let words = BTreeMap::from([("w".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        Phrases::new(vec![template.to_owned()], words)
    }

    #[test]
    fn built_in_phrases_survive_their_text() {
        let phrases = Phrases::default();
        let json = serde_json::to_string(&phrases).unwrap();
        assert_eq!(serde_json::from_str::<Phrases>(&json).unwrap(), phrases);
    }

    #[test]
    fn phrases_that_would_repeat_themselves_are_refused() {
        let wide = "{0-4294967294}".repeat(2);
        assert!(phrases(&wide).is_ok());
        assert!(matches!(phrases("{0-4294967294}{w}"), Err(PhrasesError::Narrow(_))));
        for gap in ["{x}", "{9-1}", "{", "{}", "{0-4294967295}", "{-}", "{1-2-3}"] {
            let result = phrases(&(wide.clone() + gap));
            assert!(matches!(result, Err(PhrasesError::Gap(_))), "{gap}");
        }
        assert_eq!(Phrases::new(Vec::new(), BTreeMap::new()), Err(PhrasesError::Size));
        assert_eq!(phrases(&wide.repeat(400)), Err(PhrasesError::Size));
    }
}
