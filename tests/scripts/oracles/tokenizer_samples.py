"""Hand-written text that make_tokenizer_corpus.py splits and mixes: sentences, code, markup, emoji."""

# One or more short sentences per language: greetings, proverbs, plain statements.
SENTENCES = """
English|Good morning! How are you today? I'm fine, thanks.
English|A bird in the hand is worth two in the bush.
English|She said: "It's the 3rd time we've met — isn't it?"
German|Guten Morgen! Übung macht den Meister, sagte der Bäcker.
German|Die Straße führt über den Fluss; größere Füße brauchen größere Schuhe.
French|Bonjour à tous ! L'œuvre fut achevée dès l'été, n'est-ce pas ?
French|Tous les êtres humains naissent libres et égaux en dignité et en droits.
Spanish|¿Dónde está la biblioteca? ¡Mañana será otro día!
Portuguese|O avião chegou às três da manhã com a irmã e o coração leve.
Italian|Chi dorme non piglia pesci, perché è già così.
Catalan|L'il·lusió i l'esforç són a la plaça.
Dutch|De geïnteresseerde coördinator reed 's avonds naar huis.
Danish|Rødgrød med fløde smager godt på Ærø.
Swedish|Räksmörgås på ön, sjösjuka sjömän åt ingenting.
Norwegian|Blåbærsyltetøy er best på fjellet.
Icelandic|Þetta reddast, sagði maðurinn við hafið.
Faroese|Góðan morgun, hvussu hevur tú tað?
Finnish|Hyvää huomenta! Hääyöaie on pitkä sana.
Estonian|Jüriöö ülestõus, õunapuu öötöö.
Latvian|Sveika, pasaule! Ķirbis un ģimene ēd ābolus.
Lithuanian|Įžymūs žmonės ėjo į šiltą kambarį.
Polish|Zażółć gęślą jaźń, powiedział chrząszcz.
Czech|Příliš žluťoučký kůň pěl ďábelské ódy.
Slovak|Vypätá dcéra grófa Maxwella číta, ľúbi a šľahá.
Hungarian|Árvíztűrő tükörfúrógép őrzi a várost.
Romanian|Însă țara își păstrează frumusețea și tăria.
Croatian|Gojazni đačić s biciklom drži hmelj u džepu.
Albanian|Mirëmëngjes! Çdo njeri ka të drejtë.
Turkish|Günaydın! Iğdır'da ılık süt içtiğini söyledi: İyi şanslar.
Azerbaijani|Sabahınız xeyir, əziz dostlar, gözəl gün olsun.
Vietnamese|Xin chào các bạn! Nước chảy đá mòn, được không ạ?
Indonesian|Selamat pagi, apa kabar? Air beriak tanda tak dalam.
Swahili|Habari ya asubuhi? Haraka haraka haina baraka.
Yoruba|Ẹ káàárọ̀, ṣé dáadáa ni? Ọjọ́ ń lọ.
Hausa|Ina kwana? Ƙarfe ɗaya ya wuce, ɓarawo ya gudu.
Welsh|Bore da! Mae'r tŷ ŵy yn hen iawn.
Irish|Maidin mhaith! Is fearr Gaeilge briste ná Béarla cliste.
Maltese|L-għodwa t-tajba, ħabib; iż-żmien jgħaddi.
Esperanto|Eĥoŝanĝo ĉiuĵaŭde: bonan matenon, amiko!
Latin|Omnia vincit amor, et nos cedamus amori.
Hawaiian|Aloha kakahiaka, ʻo wai kou inoa?
Greek|Καλημέρα κόσμε! Η αρχή είναι το ήμισυ του παντός.
Greek|Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι.
AncientGreek|Ἐν ἀρχῇ ἦν ὁ λόγος, καὶ ὁ λόγος ἦν πρὸς τὸν θεόν.
Russian|Доброе утро! Тише едешь — дальше будешь.
Russian|Съешь ещё этих мягких французских булок.
Ukrainian|Доброго ранку! Їжак ґречно з'їв щось смачне.
Bulgarian|Добро утро, човек се учи, докато е жив.
Serbian|Добро јутро! Љубав и џем чувају њиву ћутке.
Macedonian|Добро утро, ѓавол со ќебе и ѕвезда.
Kazakh|Қайырлы таң! Әр адамның өз үйі бар, ұлы дос.
Mongolian|Өглөөний мэнд! Үнэн үг хүчтэй.
Tajik|Субҳ ба хайр, ҷони ман, ғами дил нест.
Armenian|Բարի լույս, աշխարհ։ Խոսքը արծաթ է։
Georgian|დილა მშვიდობისა! ვინც ეძებს, ის პოულობს.
Hebrew|בוקר טוב, עולם! סוף מעשה במחשבה תחילה.
HebrewPointed|בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם
Yiddish|גוט מארגן! אַ גאַנצער מענטש.
Arabic|صباح الخير يا عالم! الصبر مفتاح الفرج.
Arabic|يولد جميع الناس أحرارًا ومتساوين في الكرامة.
ArabicPointed|بِسْمِ اللَّهِ وَالسَّلَامُ عَلَيْكُمْ
Persian|صبح به‌خیر! می‌خواهم کتاب بخوانم، لطفاً.
Urdu|صبح بخیر! جیسا کرو گے ویسا بھرو گے۔
Pashto|سهار مو پخير، ښه ورځ ولرئ!
Uyghur|ئەتىگەنلىكىڭىز خەيرلىك بولسۇن.
Syriac|ܫܠܡܐ ܠܟܘܢ ܒܪܝܟ ܨܦܪܐ
Amharic|እንደምን አደሩ? ቀስ በቀስ እንቁላል በእግሩ ይሄዳል።
Tigrinya|ከመይ ሓዲርኩም? ሰላም ንዓለም።
Hindi|सुप्रभात! जैसा बोओगे वैसा काटोगे।
Hindi|सभी मनुष्य गौरव और अधिकारों में समान हैं।
Marathi|शुभ सकाळ! प्रयत्नांती परमेश्वर, असे म्हणतात.
Nepali|शुभ प्रभात! तपाईंलाई कस्तो छ?
Sanskrit|सत्यमेव जयते नानृतम्। ॐ शान्तिः॥
Bengali|সুপ্রভাত! যেমন কর্ম তেমন ফল।
Assamese|সুপ্ৰভাত, আপোনাৰ কেনে চলিছে?
Punjabi|ਸ਼ੁਭ ਸਵੇਰ! ਜਿਹਾ ਬੀਜੋ ਤਿਹਾ ਵੱਢੋ।
Gujarati|સુપ્રભાત! વાવો તેવું લણો.
Odia|ସୁପ୍ରଭାତ! କେମିତି ଅଛନ୍ତି?
Tamil|காலை வணக்கம்! யாதும் ஊரே யாவரும் கேளிர்.
Telugu|శుభోదయం! మీరు ఎలా ఉన్నారు?
Kannada|ಶುಭೋದಯ! ಕೈ ಕೆಸರಾದರೆ ಬಾಯಿ ಮೊಸರು.
Malayalam|സുപ്രഭാതം! മിന്നുന്നതെല്ലാം പൊന്നല്ല.
Sinhala|සුභ උදෑසනක්! ඔබට කොහොමද?
Thai|สวัสดีตอนเช้า! ช้าๆ ได้พร้าเล่มงาม
Lao|ສະບາຍດີຕອນເຊົ້າ, ເຈົ້າສະບາຍດີບໍ?
Khmer|អរុណសួស្តី! តើអ្នកសុខសប្បាយទេ?
Burmese|မင်္ဂလာနံနက်ခင်းပါ၊ နေကောင်းလား။
Tibetan|བཀྲ་ཤིས་བདེ་ལེགས། ཁྱེད་རང་སྐུ་གཟུགས་བདེ་པོ་ཡིན་པས།
ChineseSimplified|早上好!千里之行,始于足下。今天天气很好。
ChineseSimplified|人人生而自由,在尊严和权利上一律平等。
ChineseTraditional|早安!學而時習之,不亦說乎?體驗圖書館。
Cantonese|早晨!你食咗飯未呀?佢哋喺邊度?
Japanese|おはようございます!七転び八起き。カタカナも書けます。
Japanese|すべての人間は、生れながらにして自由である。「はい」ー〜・
JapaneseHalf|ハンカクカナ と全角ABC123、㈱㍿①Ⅷ
Korean|좋은 아침입니다! 가는 말이 고와야 오는 말이 곱다.
Korean|모든 인간은 태어날 때부터 자유로우며 평등하다. ㅋㅋㅋ ㅠㅠ
Cherokee|ᎣᏏᏲ ᎡᎶᎯ, ᏙᎯᏧ?
Inuktitut|ᐅᓪᓛᒃᑯᑦ, ᖃᓄᐃᑉᐱᑦ?
Tifinagh|ⴰⵣⵓⵍ ⴰⵎⴰⴹⴰⵍ
Nko|ߌ ߣߌ ߛߐ߲߬ߜߐ߫
Gothic|𐌷𐌰𐌹𐌻𐍃 𐍆𐌰𐌹𐍂𐍈𐌿𐍃
Cuneiform|𒀀𒈾 𒂍𒃲 𒌷𒆠
Hieroglyphs|𓀀𓂀𓃠 𓆣𓇳
Runic|ᚠᛖᚩᚻ ᛒᛦᚦ ᚠᚱᚩᚠᚢᚱ
Deseret|𐐔𐐯𐑅𐐨𐑉𐐯𐐻
MathAlphabets|𝐇𝐞𝐥𝐥𝐨 𝒲ℴ𝓇𝓁𝒹 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛
Symbols|∀ε>0 ∃δ: |x−a|<δ ⇒ |f(x)−f(a)|<ε ∎ ∑∏∫√∞≈≠≤≥
Fullwidth|Hello World! 12,345 (テスト)
""".strip().splitlines()

# name, template; {a} {b} become identifiers, {n} {m} numbers, {s} a short string
CODE = [
    ("rust", "fn {a}({b}: &[u8]) -> Result<usize, Error> {{\n    let mut n = {n};\n    for &x in {b} {{\n        n += x as usize;\n    }}\n    Ok(n)\n}}\n"),
    ("rust", "let {a}: Vec<_> = {b}.iter().map(|x| x * {n}).filter(|&x| x != {m}).collect();"),
    ("python", "def {a}({b}, n={n}):\n    \"\"\"{s}\"\"\"\n    return [x ** 2 for x in {b} if x % n == 0]\n"),
    ("python", "class {a}:\n\tdef __init__(self, *args, **kw):\n\t\tself.{b} = kw.get('{s}', {n})\n"),
    ("c", "static inline int {a}(const char *{b}) {{\n\treturn {b} ? strlen({b}) + {n} : -{m};\n}}\n"),
    ("c", "#define {a}(x) (((x) << {n}) & 0x{m}ULL)\n#include <{b}.h>\n"),
    ("go", "if err := {a}.{b}(ctx, {n}); err != nil {{\n\treturn fmt.Errorf(\"{s}: %w\", err)\n}}\n"),
    ("java", "public static void main(String[] {a}) {{\n        System.out.println(\"{s}\" + {b}[{n}]);\n}}"),
    ("js", "const {a} = async ({{ {b}, ...rest }}) => (await fetch(`/api/${{{b}}}?n={n}`)).json();"),
    ("ts", "export type {a}<T extends object> = {{ [K in keyof T]?: T[K] | null }}; // {s}"),
    ("sql", "SELECT {a}, COUNT(*) AS {b} FROM t{n} WHERE x >= {m} GROUP BY {a} ORDER BY 2 DESC;"),
    ("sh", "for f in *.{a}; do\n  echo \"$f: ${{#{b}[@]}}\" >> out.{n}.txt || exit {m}\ndone\n"),
    ("haskell", "{a} :: Int -> [a] -> [a]\n{a} n {b} = take {n} $ drop n {b} -- {s}\n"),
    ("lisp", "(defun {a} ({b}) (if (< {b} {n}) {b} (* {b} ({a} (1- {b})))))"),
    ("json", "{{\"{a}\": [{n}, {m}.5e-3, null, true], \"{b}\": {{\"{s}\": \"\\u00e9\\n\"}}}}"),
    ("yaml", "{a}:\n  - name: {b}\n    value: {n}\n    note: '{s}'\n"),
    ("toml", "[{a}.{b}]\nversion = \"{n}.{m}.0\"\nfeatures = [\"{s}\"]\n"),
    ("html", "<div class=\"{a}\"><p>{s}</p><br/><a href='#{b}'>{n}</a></div>"),
    ("css", ".{a} > #{b}::before {{ margin: {n}px auto; content: \"{s}\"; }}"),
    ("latex", "\\begin{{{a}}}\n  \\frac{{{n}}}{{{m}}} \\leq \\mathbf{{{b}}}\n\\end{{{a}}}\n"),
    ("makefile", "{a}: {b}.o\n\t$(CC) -O{n} -o $@ $^\n\n.PHONY: clean\n"),
    ("diff", "@@ -{n},7 +{m},8 @@ {a}\n-    {b} = 1;\n+    {b} = 2;\n"),
    ("markdown", "## {a}\n\n* **{b}**: `{s}`\n\n| a | b |\n|---|--:|\n| {n} | {m} |\n"),
    ("asm", "{a}:\n\tmov\teax, {n}\n\tadd\trdi, [rsp+{m}]\n\tjne\t.L{b}\n"),
    ("regex", "^(?:{a}|{b})[^\\s\\d]{{{n},}}(?=\\b{s})$"),
]

NAMES = ("x i n buf idx len count user_id getValue HTTPServer parse_header tmp2 node kv_cache __init__ "
         "Config fooBar MAX_SIZE attn_q rope_theta n_embd toString $ref _private camelCaseName snake_case_name "
         "SCREAMING naïve größe переменная 变量 x1 y2 z3").split()

# Names of markup that the vocabulary has as single pieces, and some that it does not have.
TAGS = ("table caption thead tbody tfoot tr th td ul ol li h1 h2 h3 h4 h5 h6 blockquote em strong u s sub sup "
        "code br p div span img b i a body html script style TABLE Td h7").split()

CONTROL_WORDS = ("<bos> <eos> <pad> <unk> <mask> <2mass> [@BOS@] <start_of_turn> <end_of_turn> <unused0> <unused5> "
                 "<unused42> <unused98> <unused99> <unused100> <unused> [toxicity=0] [toxicity=1] [toxicity= <s> </s> "
                 "<|im_start|> <|endoftext|> <0x0A> <0x41> <0xFF> <0xZZ> <BOS> <bos <bo < bos> <start_of_turn "
                 "<start_of_ start_of_turn> <end_of_turn>> <<eos>> </bos> <eos/> ▁<bos> <b\u200bos>").split()

EMOJI = ("😀 😂 🥹 🤖 👍 👍🏽 👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 🏴‍☠️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇫🇷 🇯🇵 🇧🇷 🇺 🇿🇼 ❤️ ❤ ☎️ ✈︎ 1️⃣ #️⃣ 👁️‍🗨️ 🧑🏿‍🚀 🫱🏻‍🫲🏾 🐈‍⬛ 🪿 🎉 🔥 💯 "
         "✅ ⚠️ 🧑‍🤝‍🧑 🙅🏾‍♀️ 🤷‍♂️ ⛹🏻‍♂️ 🕵️‍♀️ 😶‍🌫️ 🀄 🂡 ⌚ ⏳ ♾️ ™️ ©️").split()
