/** Table 2: a text of whole articles, Memformer beside Transformer-XL and LSTM in stated budgets. */
import { experiment } from "./experiment.ts";
import { textFacts } from "./text.ts";
import { wikiPlan, type WikiSettings } from "./wiki/plan.ts";
import { wikiReport } from "./wiki/report.ts";
import { trainWiki, type WikiResult } from "./wiki/train.ts";

export const wiki = experiment<WikiSettings, WikiResult>({
  name: "wiki",
  title: "Articles, beside Transformer-XL and LSTM",
  claim:
    "on WikiText-103 4 + 16 layers reach a perplexity of 22.74, the best Transformer-XL of 16 layers 23.67; 4 + 12 layers 23.91, M 512 23.30, without memory 25.57 (Table 2).",
  needs: "text (--data, --tokenizer; default: moby-dick as bytes); a test split is scored too where there is one",
  async plan({ budget, seeds, ...spec }) {
    return wikiPlan(budget, seeds, await textFacts(spec));
  },
  run: trainWiki,
  report: wikiReport,
});
