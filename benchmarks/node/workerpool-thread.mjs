// A thread of workerpool: waits for calls by name.
import workerpool from "workerpool";

import { burn } from "./burn.mjs";

workerpool.worker({ burn });
